/** What adapters beside LoRA on linears are composed of: products with gradients, element by element, the mask of dropout, a head whose products are given. */
import { describe, expect, it } from "vitest";
import { dropout } from "../../src/ops/dropout.js";
import { matmul, matmulTransposed, transpose } from "../../src/ops/matmul.js";
import { multiply } from "../../src/ops/multiply.js";
import { tokenLogProb } from "../../src/ops/token-logprob.js";
import { Weight } from "../../src/quant/weight.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { dropoutMask } from "../reference/linear.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { leavesNothing } from "../tensor/live.js";
import { differentiate } from "./differentiate.js";

type Matrix = { rows: number; columns: number; at: Float64Array };
const random = (rows: number, columns: number, seed: number): Matrix => ({
  rows,
  columns,
  at: Float64Array.from(gaussian(rows * columns, seed)),
});
const from = (rows: number, columns: number, at: (i: number, j: number) => number): Matrix => ({
  rows,
  columns,
  at: Float64Array.from({ length: rows * columns }, (_, n) => at(Math.floor(n / columns), n % columns)),
});
const times = (a: Matrix, b: Matrix) =>
  from(a.rows, b.columns, (i, j) => {
    let sum = 0;
    for (let k = 0; k < a.columns; k++) sum += a.at[i * a.columns + k]! * b.at[k * b.columns + j]!;
    return sum;
  });
const flip = (a: Matrix) => from(a.columns, a.rows, (i, j) => a.at[j * a.columns + i]!);
const parameter = ({ rows, columns, at }: Matrix) => ({ values: at, shape: [rows, columns] });
const like = (values: Float32Array, rows: number, columns: number): Matrix => ({ rows, columns, at: Float64Array.from(values) });

const SIZES = [
  [1, 1, 1],
  [3, 65, 7],
  [33, 2, 127],
] as const;

describe.each(SIZES)("products of %i × %i × %i", (n, r, k) => {
  const [a, b] = [random(n, r, 1), random(r, k, 2)];

  it("matmul and its gradients", () =>
    leavesNothing(async () => {
      const { y, dy, gradients } = await differentiate({ a: parameter(a), b: parameter(b) }, ({ a, b }) => matmul(a, b));
      const d = like(dy, n, k);
      expect(relativeError(y, times(a, b).at)).toBeLessThan(2e-6);
      expect(relativeError(gradients.a!, times(d, flip(b)).at)).toBeLessThan(2e-6);
      expect(relativeError(gradients.b!, times(flip(a), d).at)).toBeLessThan(2e-6);
    }));

  it("matmulTransposed and its gradients", () =>
    leavesNothing(async () => {
      const w = flip(b);
      const { y, dy, gradients } = await differentiate({ a: parameter(a), w: parameter(w) }, ({ a, w }) =>
        matmulTransposed(a, w),
      );
      const d = like(dy, n, k);
      expect(relativeError(y, times(a, b).at)).toBeLessThan(2e-6);
      expect(relativeError(gradients.a!, times(d, w).at)).toBeLessThan(2e-6);
      expect(relativeError(gradients.w!, times(flip(d), a).at)).toBeLessThan(2e-6);
    }));

  it("transpose is exact, both ways", () =>
    leavesNothing(async () => {
      const { y, dy, gradients } = await differentiate({ b: parameter(b) }, ({ b }) => transpose(b));
      expect([...y]).toEqual([...flip(b).at]);
      expect([...gradients.b!]).toEqual([...flip(like(dy, k, r)).at]);
    }));

  it("multiply, of one tensor with itself too", () =>
    leavesNothing(async () => {
      const c = random(n, r, 3);
      const { y, dy, gradients } = await differentiate({ a: parameter(a), c: parameter(c) }, ({ a, c }) =>
        multiply(multiply(a, a), c),
      );
      const [x, z, d] = [a.at, c.at, dy];
      expect(
        relativeError(
          y,
          Float64Array.from(x, (v, i) => v * v * z[i]!),
        ),
      ).toBeLessThan(2e-6);
      expect(
        relativeError(
          gradients.a!,
          Float64Array.from(x, (v, i) => 2 * v * z[i]! * d[i]!),
        ),
      ).toBeLessThan(2e-6);
      expect(
        relativeError(
          gradients.c!,
          Float64Array.from(x, (v, i) => v * v * d[i]!),
        ),
      ).toBeLessThan(2e-6);
    }));
});

it("dropout is that of a linear's adapters", () =>
  leavesNothing(async () => {
    const [rows, k, p, key] = [9, 33, 0.3, 0xfedc_ba98_7654_3210n] as const;
    const x = random(rows, k, 1);
    const { y } = await differentiate({ x: parameter(x) }, ({ x }) => dropout(x, p, key));
    const mask = dropoutMask(rows, k, p, key);
    expect(
      relativeError(
        y,
        Float64Array.from(x.at, (value, i) => value * mask.at[i]!),
      ),
    ).toBeLessThan(1e-6);
  }));

it("log-probabilities of given products are those of the head that made them", () =>
  leavesNothing(async () => {
    const [rows, d, vocab] = [7, 17, 65];
    const [hidden, head] = [random(rows, d, 1), random(vocab, d, 2)];
    const labels = () => Tensor.from(Int32Array.from([4, -100, 0, 64, 9, -100, 4]), [rows]);
    const options = { softcap: 3, logitScale: 0.7, smoothing: 0.1, zLoss: 0.01 };
    const table = Weight.dense(Tensor.from(Float32Array.from(head.at), [vocab, d]));
    const fused = await differentiate({ x: parameter(hidden) }, ({ x }) => tokenLogProb(x, table, labels(), options).value);
    const given = await differentiate({ x: parameter(times(hidden, flip(head))) }, ({ x }) => {
      return tokenLogProb(x, undefined, labels(), options).value;
    });
    table.dispose();
    expect(relativeError(given.y, Float64Array.from(fused.y))).toBeLessThan(1e-5);
    const back = times(like(given.gradients.x!, rows, vocab), head);
    expect(relativeError(fused.gradients.x!, back.at)).toBeLessThan(1e-5);
  }));
