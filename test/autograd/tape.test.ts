import { describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.js";
import { defineOp } from "../../src/autograd/op.js";
import { activeTape, noGrad, valueAndGrad } from "../../src/autograd/tape.js";
import { add, scale, weightedSum } from "../../src/ops/elementwise.js";
import { glu } from "../../src/ops/glu.js";
import { linearGroup } from "../../src/ops/linear.js";
import { reshape } from "../../src/ops/reshape.js";
import { rmsNorm } from "../../src/ops/rms-norm.js";
import { Weight } from "../../src/quant/weight.js";
import { getDevice } from "../../src/tensor/device.js";
import { nextKey, startMicroStep } from "../../src/tensor/random.js";
import { Tensor } from "../../src/tensor/tensor.js";
import * as reference from "../reference/layers.js";
import { gaussian, gradientError } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";

/** A parameter with zero gradient; `dispose` of the returned function frees both. */
function parameter(values: ArrayLike<number>, shape: readonly number[] = [values.length]): Tensor {
  const tensor = Tensor.from(Float32Array.from(values), shape);
  tensor.requiresGrad = true;
  tensor.grad = Tensor.zeros(shape);
  return tensor;
}

function free(...tensors: Tensor[]): void {
  for (const tensor of tensors) {
    tensor.grad?.dispose();
    tensor.dispose();
  }
}

/** y = x², as a user would write an op of existing kernels. */
const square = defineOp<{ x: Tensor }, undefined, { x: Tensor }, Tensor>({
  name: "square",
  forward({ x }, _attrs, save) {
    save({ x });
    const y = Tensor.empty(x.shape);
    x.device.kernels.fill(x.device.number, y.handle, 0);
    x.device.kernels.scaleRows(x.device.number, y.handle, x.handle, x.handle, 0);
    return y;
  },
  backward([dy], { x }, sink) {
    const dx = Tensor.empty(x.shape);
    x.device.kernels.scaleRows(x.device.number, dx.handle, x.handle, dy!.handle, 0);
    sink.give(x, scale(dx, 2));
  },
});

describe("valueAndGrad", () => {
  it("accumulates into the gradient of a parameter", () =>
    leavesNothing(async () => {
      const x = parameter([1, -2, 3]);
      for (let i = 0; i < 2; i++) {
        using loss = valueAndGrad(() => weightedSum(square({ x }, undefined), 0.5));
        expect(await loss.item()).toBe(7);
      }
      expect([...(await x.grad!.readFloat32())]).toEqual([2, -4, 6]);
      free(x);
    }));

  it("adds up the ways of a shared activation, whatever storage their gradients share", () =>
    leavesNothing(async () => {
      const x = parameter([1, -2, 3]);
      // Backward reaches add(h, g) first, whose two gradients share storage, then adds to that of h.
      using loss = valueAndGrad(() => {
        const [h, g] = [scale(x, 2), scale(x, 3)];
        const squared = square({ x: h }, undefined);
        return weightedSum(add(squared, add(h, g)));
      });
      expect(await loss.item()).toBe(5 * 2 + 4 + 16 + 36);
      expect([...(await x.grad!.readFloat32())]).toEqual([5 + 8, 5 - 16, 5 + 24]);
      free(x);
    }));

  it("leads the gradient of a stream past a norm, into storage that nobody else reads", () =>
    leavesNothing(async () => {
      const [rows, d] = [3, 7];
      const [a, b] = [gaussian(rows * d, 1), gaussian(rows * d, 2)];
      const x = parameter(a, [rows, d]);
      const weight = Tensor.from(b.slice(0, d), [d]);
      // The sum's gradient is at once that of h and that of k; both norms add to their own.
      valueAndGrad(() => {
        const [h, k] = [scale(x, 1), scale(x, 2)];
        const [n, m] = [rmsNorm(h, weight, { eps: 1e-6 }), rmsNorm(k, weight, { eps: 1e-6 }, h)];
        return weightedSum(square({ x: reshape(add(add(n, m), k), rows * d) }, undefined));
      }).dispose();
      const loss = (v: Float64Array) => {
        const [n, m] = [v, v.map((u) => 2 * u)].map((s) => reference.rmsNorm(s, b.slice(0, d), 1e-6, false).y);
        return v.reduce((sum, u, i) => sum + (n![i]! + m![i]! + u + 2 * u) ** 2, 0);
      };
      expect(gradientError(loss, a, await x.grad!.readFloat32(), 1)).toBeLessThan(1e-5);
      free(x, weight);
    }));

  it("frees everything when the loss throws, and can be used again", () =>
    leavesNothing(async () => {
      const x = parameter([1, 2]);
      expect(() =>
        valueAndGrad(() => {
          square({ x: scale(x, 3) }, undefined);
          throw new Error("boom");
        }),
      ).toThrow("boom");
      expect(activeTape()).toBeUndefined();
      valueAndGrad(() => weightedSum(scale(x, 3))).dispose();
      expect([...(await x.grad!.readFloat32())]).toEqual([3, 3]);
      free(x);
    }));

  it("frees everything when backward throws", () =>
    leavesNothing(() => {
      const x = parameter([1, 2]);
      const failing = defineOp<{ x: Tensor }, undefined, undefined, Tensor>({
        name: "failing",
        forward: ({ x }) => scale(x, 1),
        backward() {
          throw new Error("no gradient");
        },
      });
      expect(() => valueAndGrad(() => weightedSum(square({ x: failing({ x: scale(x, 2) }, undefined) }, undefined)))).toThrow(
        "no gradient",
      );
      free(x);
    }));

  it("refuses a loss of several values, and another one inside", () =>
    leavesNothing(() => {
      const x = parameter([1, 2]);
      expect(codeOf(() => valueAndGrad(() => scale(x, 1)))).toBe("SHAPE_MISMATCH");
      expect(codeOf(() => valueAndGrad(() => valueAndGrad(() => weightedSum(x))))).toBe("INVALID_ARGUMENT");
      free(x);
    }));

  it("records nothing without a parameter or inside noGrad", () =>
    leavesNothing(async () => {
      using constant = Tensor.from([1, 2], [2]);
      const x = parameter([1, 2]);
      valueAndGrad(() => {
        expect(scale(constant, 2).requiresGrad).toBe(false);
        expect(noGrad(() => scale(x, 2)).requiresGrad).toBe(false);
        return weightedSum(scale(x, 1));
      }).dispose();
      expect([...(await x.grad!.readFloat32())]).toEqual([1, 1]);
      free(x);
    }));

  it("frees what backward does not read before backward begins", () =>
    leavesNothing(() => {
      const device = getDevice();
      const n = 1 << 16;
      const x = parameter(new Float32Array(n));
      device.resetPeak();
      const start = device.memory.live;
      valueAndGrad(() => {
        let y = x;
        // Scaling saves nothing: only the last result and one gradient need to exist.
        for (let i = 0; i < 8; i++) y = scale(y, 2);
        return weightedSum(y);
      }).dispose();
      // All of forward lives until its body ends, then goes; backward adds no second copy of it.
      expect(device.memory.peak - start).toBeLessThan(9.5 * n * 4);
      free(x);
    }));
});

describe("checkpoint", () => {
  const [rows, d, r] = [9, 16, 3];
  const P = 0.4;

  /** A block with a norm, a linear with an adapter and dropout, a gated unit and a residual. */
  async function run(checkpointed: boolean): Promise<{ loss: number; gradients: number[][]; peak: number }> {
    const device = getDevice();
    const x = parameter(gaussian(rows * d, 1), [rows, d]);
    const a = parameter(gaussian(r * d, 2), [r, d]);
    const b = parameter(gaussian(d * r, 3), [d, r]);
    const norm = parameter(gaussian(d, 4), [d]);
    const weight = Weight.dense(Tensor.from(gaussian(d * d, 5), [d, d]));
    const block = (h: Tensor): Tensor[] => {
      const y = rmsNorm(h, norm, { eps: 1e-5 });
      const segments = [{ rowBegin: 0, rowEnd: rows, a, b, scale: 0.5 }];
      const [gate] = linearGroup(y, [{ weight, bias: undefined, segments }], { dropout: { p: P, key: nextKey("block") } });
      return [add(h, glu(gate!, y, "silu"))];
    };
    startMicroStep(11, 5);
    device.resetPeak();
    const start = device.memory.live;
    const loss = valueAndGrad(() => {
      let h = x;
      for (let layer = 0; layer < 3; layer++) h = (checkpointed ? checkpoint((y) => block(y!), [h], [a, b, norm]) : block(h))[0]!;
      return weightedSum(h, 1, h);
    });
    const peak = device.memory.peak - start;
    const result = { loss: await loss.item(), gradients: [] as number[][], peak };
    for (const tensor of [x, a, b, norm]) result.gradients.push([...(await tensor.grad!.readFloat32())]);
    loss.dispose();
    free(x, a, b, norm);
    weight.dispose();
    return result;
  }

  it("gives the same bits as keeping everything, dropout included, in less memory", () =>
    leavesNothing(async () => {
      const plain = await run(false);
      const recomputed = await run(true);
      expect(recomputed.loss).toBe(plain.loss);
      expect(recomputed.gradients).toEqual(plain.gradients);
      expect(plain.gradients.every((gradient) => gradient.some((v) => v !== 0))).toBe(true);
      expect(recomputed.peak).toBeLessThan(plain.peak);
    }));

  it("frees everything when the recomputation throws", () =>
    leavesNothing(() => {
      const x = parameter([1, 2]);
      let calls = 0;
      const block = (h: Tensor): Tensor[] => {
        if (++calls === 2) throw new Error("out of luck");
        return [square({ x: h }, undefined)];
      };
      expect(() => valueAndGrad(() => weightedSum(checkpoint((h) => block(h!), [scale(x, 2)])[0]!))).toThrow("out of luck");
      free(x);
    }));
});

describe("defineOp", () => {
  it("agrees with finite differences through a composition", () =>
    leavesNothing(async () => {
      const values = gaussian(6, 9);
      const x = parameter(values);
      valueAndGrad(() => weightedSum(square({ x: square({ x: scale(x, 1.5) }, undefined) }, undefined))).dispose();
      const loss = (v: Float64Array) => v.reduce((sum, u) => sum + (1.5 * u) ** 4, 0);
      expect(gradientError(loss, values, await x.grad!.readFloat32(), 1)).toBeLessThan(1e-5);
      free(x);
    }));
});
