import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { fill } from "./copy.js";
import { enqueue, handleOf, mismatch, sameShape } from "./kernel.js";

export interface RmsNormOptions {
  eps: number;
  /** Gemma's form: the weight counts from one. */
  unitOffset?: boolean;
}

/** y = x / rms(x) * weight over the last dimension (Zhang & Sennrich 2019), + residual; x and residual float32 [..., d], weight [d]. */
export const rmsNorm = (x: Tensor, weight: Tensor, options: RmsNormOptions, residual?: Tensor): Tensor =>
  rmsNormOp({ x, weight, residual }, options);

type Inputs = { x: Tensor; weight: Tensor; residual: Tensor | undefined };

const rmsNormOp = defineOp<Inputs, RmsNormOptions, { x: Tensor; rstd: Tensor | undefined; weight: Tensor }, Tensor>({
  name: "rmsNorm",
  forward({ x, weight, residual }, { eps, unitOffset }, save, recording) {
    const d = x.shape.at(-1) ?? 1;
    if (weight.size !== d) throw mismatch("rmsNorm", "weight", `[${d}] as the last dimension of x`, weight);
    if (residual && !sameShape(x, residual)) throw mismatch("rmsNorm", "residual", `[${x.shape}] as x`, residual);
    const { device } = x;
    const y = Tensor.empty(x.shape, { device });
    const rstd = recording ? Tensor.empty([x.size / d], { device }) : undefined;
    const offset = unitOffset ? 1 : 0;
    enqueue(y, (k, n) => k.rmsNorm(n, y.handle, handleOf(rstd), x.handle, handleOf(residual), weight.handle, eps, offset));
    save({ x, rstd, weight });
    return y;
  },
  backward([dy], { x, rstd, weight }, sink, { residual }, { eps, unitOffset }) {
    const dweight = sink.needs(weight) ? sink.into(weight) : undefined;
    if (dweight && !dweight.accumulate) fill(dweight.tensor, 0);
    const dx = sink.needs(x) ? sink.onto(x) : undefined;
    enqueue(x, (k, n) =>
      k.rmsNormGrad(
        n,
        handleOf(dx?.tensor),
        handleOf(dweight?.tensor),
        dy!.handle,
        handleOf(dx?.present),
        x.handle,
        rstd!.handle,
        weight.handle,
        eps,
        unitOffset ? 1 : 0,
      ),
    );
    if (residual) sink.give(residual, dy!);
  },
});

/** 1 / √(mean of squares + eps) of every row of x float32 [n, k], and x times it. No gradient. */
export function rowRms(x: Tensor, eps: number): { rstd: Tensor; normed: Tensor } {
  const [n = 0, k = 0] = x.shape;
  const { device } = x;
  const rstd = Tensor.empty([n], { device });
  const normed = Tensor.empty(x.shape, { device });
  const ones = Tensor.from(new Float32Array(k).fill(1), [k], { device });
  enqueue(x, (kernels, d) => kernels.rmsNorm(d, normed.handle, rstd.handle, x.handle, 0, ones.handle, eps, 0));
  ones.dispose();
  return { rstd, normed };
}
