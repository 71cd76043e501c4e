import { describe, expect, it } from "vitest";
import { NATIVE_ACTIVATIONS } from "../../src/native/surface.js";
import { attention } from "../../src/ops/attention.js";
import { splitColumns } from "../../src/ops/columns.js";
import { cast, copyInto } from "../../src/ops/copy.js";
import { add, scale, weightedSum } from "../../src/ops/elementwise.js";
import { embedding } from "../../src/ops/embedding.js";
import { glu } from "../../src/ops/glu.js";
import { matmul } from "../../src/ops/matmul.js";
import { fillRandom } from "../../src/ops/random.js";
import { rmsNorm } from "../../src/ops/rms-norm.js";
import { rope, ropeTable } from "../../src/ops/rope.js";
import { softcap } from "../../src/ops/softcap.js";
import { Tensor } from "../../src/tensor/tensor.js";
import * as reference from "../reference/attention.js";
import * as layers from "../reference/layers.js";
import { addProduct, matrix } from "../reference/linear.js";
import { gaussian, gradientError, relativeError, weighted } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";
import { differentiate, type Parameter } from "./differentiate.js";

const normal = (shape: readonly number[], seed: number): Parameter => ({
  values: gaussian(
    shape.reduce((product, n) => product * n, 1),
    seed,
  ),
  shape,
});
const int32 = (values: readonly number[]) => Tensor.from(Int32Array.from(values), [values.length]);

describe("rmsNorm", () => {
  for (const [rows, d] of [
    [1, 1],
    [3, 65],
    [7, 127],
  ] as const) {
    it(`[${rows}, ${d}]: y and the gradients of x, residual and weight`, () =>
      leavesNothing(async () => {
        const p = { x: normal([rows, d], 1), r: normal([rows, d], 2), w: normal([d], 3) };
        const { y, dy, gradients } = await differentiate(p, ({ x, r, w }) => rmsNorm(x, w, { eps: 1e-3 }, r));
        const forward = (x: ArrayLike<number>, w: ArrayLike<number>) =>
          layers.rmsNorm(x, w, 1e-3, false).y.map((v, i) => v + p.r.values[i]!);
        expect(relativeError(y, forward(p.x.values, p.w.values))).toBeLessThan(3e-6);
        const loss = (x: Float64Array) => weighted(forward(x, p.w.values), dy);
        expect(gradientError(loss, p.x.values, gradients.x!, 1)).toBeLessThan(3e-5);
        expect([...gradients.r!]).toEqual([...dy]);
        expect(gradientError((w) => weighted(forward(p.x.values, w), dy), p.w.values, gradients.w!, 2)).toBeLessThan(3e-5);
      }));
  }

  it("adds to a gradient that x has already", () =>
    leavesNothing(async () => {
      const p = { x: normal([3, 65], 1), w: normal([65], 3) };
      const { dy, gradients } = await differentiate(p, ({ x, w }) => {
        const h = scale(x, 1);
        return add(rmsNorm(h, w, { eps: 1e-6, unitOffset: true }), scale(h, 0.5));
      });
      const loss = (x: Float64Array) => weighted(layers.rmsNorm(x, p.w.values, 1e-6, true).y, dy) + 0.5 * weighted(x, dy);
      expect(gradientError(loss, p.x.values, gradients.x!, 1)).toBeLessThan(3e-5);
    }));
});

describe("rope", () => {
  it("rotates the first dimensions, and back in the gradient", () =>
    leavesNothing(async () => {
      const [tokens, heads, d] = [5, 3, 10];
      const positions = [0, 1, 2, 0, 1000];
      const invFreq = Float32Array.of(1, 0.1, 0.003);
      const p = { x: normal([tokens, heads, d], 1) };
      const { y, dy, gradients } = await differentiate(p, ({ x }) =>
        rope(x, ropeTable(int32(positions), Tensor.from(invFreq, [3]), { scaling: 1.2 })),
      );
      const forward = (x: ArrayLike<number>) => layers.rope(x, positions, invFreq, heads, d, 1.2);
      expect(relativeError(y, forward(p.x.values))).toBeLessThan(1e-4); // the angle is float32
      expect(gradientError((x) => weighted(forward(x), dy), p.x.values, gradients.x!, 1)).toBeLessThan(2e-4);
    }));
});

describe("glu", () => {
  it.each(NATIVE_ACTIVATIONS)("with %s gives y and both gradients", (activation) =>
    leavesNothing(async () => {
      const p = { gate: normal([3, 65], 1), up: normal([3, 65], 2) };
      const reference = (g: ArrayLike<number>, u: ArrayLike<number>) => layers.glu(g, u, activation);
      const { y, dy, gradients } = await differentiate(p, ({ gate, up }) => glu(gate, up, activation));
      expect(relativeError(y, reference(p.gate.values, p.up.values))).toBeLessThan(2e-6);
      expect(gradientError((g) => weighted(reference(g, p.up.values), dy), p.gate.values, gradients.gate!, 1)).toBeLessThan(2e-5);
      expect(gradientError((u) => weighted(reference(p.gate.values, u), dy), p.up.values, gradients.up!, 2)).toBeLessThan(2e-5);
    }),
  );
});

describe("softcap", () => {
  it("gives y and its gradient", () =>
    leavesNothing(async () => {
      const x = normal([3, 65], 1);
      const { y, dy, gradients } = await differentiate({ x }, ({ x }) => softcap(x, 1.5, 2));
      expect(relativeError(y, layers.softcap(x.values, 2, 1.5))).toBeLessThan(2e-6);
      expect(gradientError((x) => weighted(layers.softcap(x, 2, 1.5), dy), x.values, gradients.x!, 1)).toBeLessThan(2e-5);
    }));
});

describe("splitColumns", () => {
  const widths = [3, 1, 7];
  const x = normal([5, 11], 1);
  const column = (i: number) => i % 11;

  it("cuts the columns and puts the gradients together", () =>
    leavesNothing(async () => {
      const sums = (part: Tensor) => matmul(part, Tensor.from(new Float32Array(7 * part.shape[1]!).fill(1), [part.shape[1]!, 7]));
      const { y, dy, gradients } = await differentiate({ x }, ({ x }) => {
        const [a, b, c] = splitColumns(x, widths) as [Tensor, Tensor, Tensor];
        return add(add(sums(a), sums(b)), c);
      });
      const row = (values: ArrayLike<number>, r: number, from: number, to: number) =>
        Array.from({ length: to - from }, (_, i) => values[r * 11 + from + i] as number).reduce((a, b) => a + b, 0);
      for (const [i, value] of y.entries()) {
        const r = Math.floor(i / 7);
        expect(value).toBeCloseTo(row(x.values, r, 0, 4) + (x.values[r * 11 + 4 + (i % 7)] as number), 5);
      }
      for (const [i, value] of gradients.x!.entries()) {
        const r = Math.floor(i / 11);
        const all = dy.slice(r * 7, (r + 1) * 7);
        expect(value).toBeCloseTo(column(i) < 4 ? all.reduce((a, b) => a + b, 0) : (all[column(i) - 4] as number), 5);
      }
    }));

  it("leaves zeros where a part was not used", () =>
    leavesNothing(async () => {
      const { gradients, dy } = await differentiate({ x }, ({ x }) => splitColumns(x, widths)[2]!);
      for (const [i, value] of gradients.x!.entries())
        expect(value).toBe(column(i) < 4 ? 0 : dy[Math.floor(i / 11) * 7 + column(i) - 4]);
    }));
});

describe("attention", () => {
  for (const window of [0, 3]) {
    it(`packed sequences, grouped queries${window ? `, window ${window}` : ""}`, () =>
      leavesNothing(async () => {
        const [heads, kvHeads, d, lengths] = [4, 2, 6, [1, 7, 3]] as const;
        const tokens = lengths.reduce((a, b) => a + b, 0);
        const p = { q: normal([tokens, heads, d], 1), k: normal([tokens, kvHeads, d], 2), v: normal([tokens, kvHeads, d], 3) };
        const { y, dy, gradients } = await differentiate(p, ({ q, k, v }) =>
          attention(q, k, v, { cuSeqlens: int32([0, 1, 8, 11]), maxSeqlen: 7, ...(window ? { window } : {}) }),
        );
        const shape = {
          heads,
          kvHeads,
          d,
          lengths: lengths.map((n) => ({ queries: n, keys: n })),
          scale: 1 / Math.sqrt(d),
          ...(window ? { window } : {}),
        };
        const forward = (o: Partial<Record<"q" | "k" | "v", ArrayLike<number>>>) =>
          reference.attention(o.q ?? p.q.values, o.k ?? p.k.values, o.v ?? p.v.values, shape).out;
        expect(relativeError(y, forward({}))).toBeLessThan(3e-6);
        for (const name of ["q", "k", "v"] as const) {
          const error = gradientError((x) => weighted(forward({ [name]: x }), dy), p[name].values, gradients[name]!, 1);
          expect(error).toBeLessThan(3e-5);
        }
      }));
  }

  it("refuses shapes that do not fit, naming op and rule", () =>
    leavesNothing(() => {
      using q = Tensor.zeros([4, 3, 8]);
      using k = Tensor.zeros([4, 2, 8]);
      using cuSeqlens = int32([0, 4]);
      expect(() => attention(q, k, k, { cuSeqlens, maxSeqlen: 4 })).toThrow(
        /\[attention\] heads of q must be a multiple of the 2 heads of k/,
      );
      using flat = Tensor.zeros([4, 24]);
      expect(codeOf(() => attention(flat, k, k, { cuSeqlens, maxSeqlen: 4 }))).toBe("SHAPE_MISMATCH");
    }));
});

describe("embedding", () => {
  it("gathers rows and adds up the gradients of repeated ids", () =>
    leavesNothing(async () => {
      const ids = [2, 0, 2, 4, 2];
      const p = { table: normal([5, 3], 1) };
      const { y, dy, gradients } = await differentiate(p, ({ table }) => embedding(table, int32(ids), 0.5));
      const expected = new Float64Array(15);
      ids.forEach((id, t) => {
        for (let j = 0; j < 3; j++) {
          expect(y[t * 3 + j]).toBe(Math.fround(0.5 * p.table.values[id * 3 + j]!));
          expected[id * 3 + j] = expected[id * 3 + j]! + 0.5 * dy[t * 3 + j]!;
        }
      });
      expect(relativeError(gradients.table!, expected)).toBeLessThan(1e-6);
    }));

  it("refuses ids that are not int32 [T]", () =>
    leavesNothing(() => {
      using table = Tensor.zeros([5, 3]);
      using ids = Tensor.zeros([2]);
      expect(() => embedding(table, ids)).toThrow("[embedding] ids must be int32 [T] but is float32 [2]");
    }));
});

describe("elementwise", () => {
  it("weightedSum sums in float64 and gives the weights no gradient", () =>
    leavesNothing(async () => {
      const p = { x: normal([65], 1) };
      const weights = gaussian(65, 2);
      const { y, dy, gradients } = await differentiate(p, ({ x }) => weightedSum(x, -0.25, Tensor.from(weights, [65])));
      expect(relativeError(y, [-0.25 * weighted(p.x.values, weights)])).toBeLessThan(1e-6);
      expect(
        relativeError(
          gradients.x!,
          [...weights].map((w) => -0.25 * w * dy[0]!),
        ),
      ).toBeLessThan(1e-6);
    }));

  it("refuses shapes that differ", () =>
    leavesNothing(() => {
      using a = Tensor.zeros([2, 3]);
      using b = Tensor.zeros([3, 2]);
      for (const op of [
        () => add(a, b),
        () => glu(a, b, "silu"),
        () => splitColumns(a, [1, 1]),
        () => copyInto(a, b),
        () => weightedSum(a, 1, b),
      ])
        expect(codeOf(op)).toBe("SHAPE_MISMATCH");
    }));
});

describe("without gradient", () => {
  it("cast rounds to nearest, ties to even", () =>
    leavesNothing(async () => {
      using x = Tensor.from([1 + 2 ** -8, 1 + 3 * 2 ** -8, -2], [3]);
      using y = cast(x, "bfloat16");
      expect([...(await y.readFloat32())]).toEqual([1, 1 + 2 ** -6, -2]);
    }));

  it("matmul equals float64", () =>
    leavesNothing(async () => {
      const [n, r, k] = [65, 3, 127];
      const [a, b] = [gaussian(n * r, 1), gaussian(r * k, 2)];
      using left = Tensor.from(a, [n, r]);
      using right = Tensor.from(b, [r, k]);
      using y = matmul(left, right);
      expect(relativeError(await y.readFloat32(), product(matrix(n, r, a), matrix(r, k, b)))).toBeLessThan(2e-6);
      expect(codeOf(() => matmul(left, left))).toBe("SHAPE_MISMATCH");
    }));

  it("random numbers follow their key and distribution", () =>
    leavesNothing(async () => {
      using a = Tensor.empty([4096]);
      using b = Tensor.empty([4096]);
      fillRandom(a, { uniform: { low: -2, high: 4 } }, 5n);
      fillRandom(b, { uniform: { low: -2, high: 4 } }, 5n);
      const values = await a.readFloat32();
      expect([...values]).toEqual([...(await b.readFloat32())]);
      expect(Math.min(...values)).toBeGreaterThanOrEqual(-2);
      expect(Math.max(...values)).toBeLessThan(4);
      expect(Math.abs(mean(values) - 1)).toBeLessThan(0.1);
      fillRandom(b, { normal: { mean: 3, std: 0.5 } }, 6n);
      const drawn = await b.readFloat32();
      expect(Math.abs(mean(drawn) - 3)).toBeLessThan(0.03);
      expect(Math.abs(Math.sqrt(mean(drawn.map((v) => (v - 3) ** 2))) - 0.5)).toBeLessThan(0.02);
    }));
});

const mean = (values: ArrayLike<number>): number => Array.from(values).reduce((a, b) => a + b, 0) / values.length;
const product = (a: ReturnType<typeof matrix>, b: ReturnType<typeof matrix>): Float64Array =>
  addProduct(matrix(a.rows, b.columns), a, b).at;
