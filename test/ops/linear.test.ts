import { describe, expect, it } from "vitest";
import { add, scale } from "../../src/ops/elementwise.js";
import { gatedLinear, linearGroup } from "../../src/ops/linear.js";
import { type TokenLogProbOptions, tokenLogProb } from "../../src/ops/token-logprob.js";
import { Weight } from "../../src/quant/weight.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { tokenLogprob as referenceLogProb } from "../reference/head.js";
import { glu } from "../reference/layers.js";
import { addProduct, dropoutMask, linear, linearGrad, matrix, transpose } from "../reference/linear.js";
import { gaussian, gradientError, relativeError, weighted } from "../reference/numeric.js";
import { leavesNothing } from "../tensor/live.js";
import { differentiate, dyOf } from "./differentiate.js";

const KEY = 0xfedc_ba98_7654_3210n;

/** A linear over an untrained matrix; the weight is freed with the body. */
async function withWeight(
  values: Float32Array,
  shape: readonly [number, number],
  body: (weight: Weight) => Promise<void>,
): Promise<void> {
  const weight = Weight.dense(Tensor.from(values, shape));
  try {
    await body(weight);
  } finally {
    weight.dispose();
  }
}

describe("linearGroup", () => {
  for (const p of [0, 0.3]) {
    it(`adapters on some rows of two layers that share x, dropout ${p}`, () =>
      leavesNothing(async () => {
        const [rows, k, n, r] = [9, 65, 33, 3];
        const x = gaussian(rows * k, 1);
        const w = [gaussian(n * k, 2), gaussian(n * k, 3)] as const;
        const pairs = [0, 1].map((l) => ({
          a: gaussian(r * k, 10 + l),
          b: gaussian(n * r, 20 + l),
          scale: 0.5 + l,
          begin: l,
          end: rows - 2 * l,
        }));
        const parameters = {
          x: { values: x, shape: [rows, k] },
          a0: { values: pairs[0]!.a, shape: [r, k] },
          b0: { values: pairs[0]!.b, shape: [n, r] },
          a1: { values: pairs[1]!.a, shape: [r, k] },
          b1: { values: pairs[1]!.b, shape: [n, r] },
        };
        await withWeight(w[0], [n, k], (first) =>
          withWeight(w[1], [n, k], async (second) => {
            const { y, dy, gradients } = await differentiate(parameters, ({ x, a0, b0, a1, b1 }) => {
              const segment = (l: number, a: Tensor, b: Tensor) => ({
                rowBegin: pairs[l]!.begin,
                rowEnd: pairs[l]!.end,
                a,
                b,
                scale: pairs[l]!.scale,
              });
              const [u, v] = linearGroup(
                x,
                [
                  { weight: first, bias: undefined, segments: [segment(0, a0, b0)] },
                  { weight: second, bias: undefined, segments: [segment(1, a1, b1)] },
                ],
                p > 0 ? { dropout: { p, key: KEY } } : {},
              );
              return add(u!, v!);
            });
            const mask = dropoutMask(rows, k, p, KEY);
            const input = matrix(rows, k, x);
            const layers = pairs.map(({ a, b, scale, begin, end }, l) => ({
              w: matrix(n, k, w[l]!),
              dy: matrix(rows, n, dy),
              segments: [{ begin, end, a: matrix(r, k, a), b: matrix(n, r, b), scale }],
            }));
            const outputs = layers.map((layer) => linear(input, layer, mask).at);
            expect(
              relativeError(
                y,
                outputs[0]!.map((v, i) => v + outputs[1]![i]!),
              ),
            ).toBeLessThan(3e-6);
            const expected = linearGrad(input, layers, mask);
            expect(relativeError(gradients.x!, expected.dx.at)).toBeLessThan(3e-6);
            for (const l of [0, 1]) {
              expect(relativeError(gradients[`a${l}`]!, expected.da[l]![0]!.at)).toBeLessThan(3e-6);
              expect(relativeError(gradients[`b${l}`]!, expected.db[l]![0]!.at)).toBeLessThan(3e-6);
            }
          }),
        );
      }));
  }

  it("adds a residual, whose gradient is that of y; of two layers one may be unused", () =>
    leavesNothing(() =>
      withWeight(gaussian(65 * 33, 2), [33, 65], async (weight) => {
        const rows = 9;
        const [x, r] = [gaussian(rows * 65, 1), gaussian(rows * 33, 3)];
        const parameters = { x: { values: x, shape: [rows, 65] }, r: { values: r, shape: [rows, 33] } };
        const { y, dy, gradients } = await differentiate(parameters, ({ x, r }) => {
          const layer = { weight, bias: undefined, segments: [] };
          // Used twice, so that two gradients are added; and gone when the backward pass begins.
          const h = scale(r, 1);
          const [sum] = linearGroup(x, [{ ...layer, residual: h }, layer]);
          return add(sum!, scale(h, 2));
        });
        const input = matrix(rows, 65, x);
        const layer = { w: matrix(33, 65, gaussian(65 * 33, 2)), dy: matrix(rows, 33, dy), segments: [] };
        const ones = matrix(rows, 65, new Float64Array(rows * 65).fill(1));
        const products = linear(input, layer, ones).at;
        const sums = products.map((v, i) => v + 3 * r[i]!);
        expect(relativeError(y, sums)).toBeLessThan(3e-6);
        expect(relativeError(gradients.x!, linearGrad(input, [layer], ones).dx.at)).toBeLessThan(3e-6);
        const three = Array.from(dy, (v) => 3 * v);
        expect(relativeError(gradients.r!, three)).toBeLessThan(1e-6);
      }),
    ));

  it("trains a dense weight and a bias", () =>
    leavesNothing(async () => {
      const [rows, k, n] = [5, 7, 3];
      const [x, w, b] = [gaussian(rows * k, 1), gaussian(n * k, 2), gaussian(n, 3)];
      const parameters = { x: { values: x, shape: [rows, k] }, w: { values: w, shape: [n, k] }, b: { values: b, shape: [n] } };
      const borrowed: Weight[] = [];
      const { y, dy, gradients } = await differentiate(parameters, ({ x, w, b }) => {
        borrowed.push(Weight.borrow(w));
        return linearGroup(x, [{ weight: borrowed[0]!, bias: b, segments: [] }])[0]!;
      });
      borrowed[0]!.dispose();
      const forward = (x: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number>) =>
        addProduct(matrix(rows, n), matrix(rows, k, x), transpose(matrix(n, k, w))).at.map((v, i) => v + b[i % n]!);
      expect(relativeError(y, forward(x, w, b))).toBeLessThan(1e-6);
      expect(gradientError((v) => weighted(forward(v, w, b), dy), x, gradients.x!, 1)).toBeLessThan(1e-5);
      expect(gradientError((v) => weighted(forward(x, v, b), dy), w, gradients.w!, 2)).toBeLessThan(1e-5);
      expect(gradientError((v) => weighted(forward(x, w, v), dy), b, gradients.b!, 3)).toBeLessThan(1e-5);
    }));

  it.each(["silu", "gelu_tanh"] as const)(
    "ends as a gated linear unit by %s, and trains all that the two layers can",
    (activation) =>
      leavesNothing(async () => {
        const [rows, k, n, r] = [9, 7, 5, 2];
        const of = (seed: number, ...shape: number[]) => ({
          shape,
          values: gaussian(
            shape.reduce((p, s) => p * s),
            seed,
            0.7,
          ),
        });
        const parameters = {
          x: of(1, rows, k),
          w: of(2, n, k),
          b: of(3, n),
          a0: of(4, r, k),
          b0: of(5, n, r),
          a1: of(6, r, k),
          b1: of(7, n, r),
        };
        type Name = keyof typeof parameters;
        const borrowed: Weight[] = [];
        const { y, dy, gradients } = await differentiate(parameters, ({ x, w, b, a0, b0, a1, b1 }) => {
          const weight = Weight.borrow(w);
          borrowed.push(weight);
          const segment = (a: Tensor, b: Tensor) => ({ rowBegin: 1, rowEnd: rows, a, b, scale: 0.5 });
          const gate = { weight, bias: b, segments: [segment(a0, b0)] };
          return gatedLinear(x, [gate, { weight, bias: undefined, segments: [segment(a1, b1)] }], activation);
        });
        for (const weight of borrowed) weight.dispose();
        const ones = matrix(rows, k, new Float64Array(rows * k).fill(1));
        const forward = (changed: Partial<Record<Name, ArrayLike<number>>> = {}) => {
          const at = (name: Name) => changed[name] ?? parameters[name].values;
          const layer = (l: 0 | 1) => ({
            w: matrix(n, k, at("w")),
            dy: matrix(rows, n),
            ...(l === 0 ? { bias: at("b") } : {}),
            segments: [{ begin: 1, end: rows, a: matrix(r, k, at(`a${l}`)), b: matrix(n, r, at(`b${l}`)), scale: 0.5 }],
          });
          const x = matrix(rows, k, at("x"));
          return glu(linear(x, layer(0), ones).at, linear(x, layer(1), ones).at, activation);
        };
        expect(relativeError(y, forward())).toBeLessThan(3e-6);
        for (const [i, name] of (Object.keys(parameters) as Name[]).entries()) {
          const error = gradientError((v) => weighted(forward({ [name]: v }), dy), parameters[name].values, gradients[name]!, i);
          expect(error, name).toBeLessThan(2e-5);
        }
      }),
  );

  it("refuses an x and a residual of other widths", () =>
    leavesNothing(() =>
      withWeight(gaussian(6, 1), [2, 3], async (weight) => {
        using x = Tensor.zeros([4, 5]);
        expect(() => linearGroup(x, [{ weight, bias: undefined, segments: [] }])).toThrow(
          "[linear] x must be [T, 3] as the weight but is float32 [4, 5]",
        );
        using fitting = Tensor.zeros([4, 3]);
        expect(() => linearGroup(fitting, [{ weight, bias: undefined, segments: [], residual: x }])).toThrow(
          "[linear] residual must be [4, 2] as y but is float32 [4, 5]",
        );
      }),
    ));
});

describe("tokenLogProb", () => {
  const [rows, k, vocab] = [7, 13, 101];
  const labels = [5, -100, 0, 100, 5, -100, 17];
  const hidden = gaussian(rows * k, 1);
  const head = gaussian(vocab * k, 2);

  async function run(trained: boolean, options: TokenLogProbOptions, entropy = false) {
    const parameters = { x: { values: hidden, shape: [rows, k] }, w: { values: head, shape: [vocab, k] } };
    const kept: Weight[] = [];
    const result = await differentiate(parameters, ({ x, w }) => {
      w.requiresGrad = trained;
      kept.push(Weight.borrow(w));
      const ids = Tensor.from(Int32Array.from(labels), [rows]);
      const out = tokenLogProb(x, kept[0]!, ids, { ...options, entropy });
      return entropy ? add(out.value, out.entropy!) : out.value;
    });
    kept[0]!.dispose();
    return result;
  }
  const forward = (x: ArrayLike<number>, w: ArrayLike<number>, o: TokenLogProbOptions, entropy = false) => {
    const { softcap = 0, logitScale = 1, smoothing = 0, zLoss = 0 } = o;
    const y = referenceLogProb(matrix(rows, k, x), matrix(vocab, k, w), labels, { softcap, logitScale, smoothing, zLoss });
    return entropy ? y.value.map((v, i) => v + y.entropy[i]!) : y.value;
  };

  for (const [name, options] of Object.entries<TokenLogProbOptions>({
    plain: {},
    "smoothing and z-loss": { smoothing: 0.1, zLoss: 1e-2 },
    "softcap and scale": { softcap: 4, logitScale: 0.7 },
  })) {
    it(`${name}: frozen and trained head agree with float64`, () =>
      leavesNothing(async () => {
        const frozen = await run(false, options);
        const trained = await run(true, options);
        const dy = dyOf(rows);
        expect(relativeError(frozen.y, forward(hidden, head, options))).toBeLessThan(2e-6);
        expect([...trained.y]).toEqual([...frozen.y]);
        const loss = (x: Float64Array) => weighted(forward(x, head, options), dy);
        expect(gradientError(loss, hidden, frozen.gradients.x!, 1)).toBeLessThan(2e-5);
        expect(relativeError(trained.gradients.x!, frozen.gradients.x!)).toBeLessThan(2e-6);
        expect(gradientError((w) => weighted(forward(hidden, w, options), dy), head, trained.gradients.w!, 2)).toBeLessThan(2e-5);
        expect(frozen.gradients.w!.every((v) => v === 0)).toBe(true);
      }));
  }

  it("differentiates the entropy too", () =>
    leavesNothing(async () => {
      const { y, dy, gradients } = await run(false, {}, true);
      expect(relativeError(y, forward(hidden, head, {}, true))).toBeLessThan(2e-6);
      expect(gradientError((x) => weighted(forward(x, head, {}, true), dy), hidden, gradients.x!, 1)).toBeLessThan(2e-5);
    }));

  it("names the likeliest token", () =>
    leavesNothing(() =>
      withWeight(head, [vocab, k], async (weight) => {
        using x = Tensor.from(hidden, [rows, k]);
        using ids = Tensor.from(Int32Array.from(labels), [rows]);
        const { value, argmax } = tokenLogProb(x, weight, ids, { argmax: true });
        const expected = referenceLogProb(matrix(rows, k, hidden), matrix(vocab, k, head), labels, {
          softcap: 0,
          logitScale: 1,
          smoothing: 0,
          zLoss: 0,
        });
        expect([...(await argmax!.read())]).toEqual([...expected.argmax]);
        value.dispose();
        argmax!.dispose();
      }),
    ));
});
