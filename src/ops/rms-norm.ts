import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, handleOf, mismatch, sameShape } from "./kernel.js";

export interface RmsNormOptions {
  eps: number;
  /** Gemma's form: the weight counts from one. */
  unitOffset?: boolean;
}

/** y = x / rms(x) * weight over the last dimension (Zhang & Sennrich 2019); x float32 [..., d], weight [d]. */
export const rmsNorm = (x: Tensor, weight: Tensor, options: RmsNormOptions): Tensor =>
  rmsNormOp({ x, weight, residual: undefined }, options)[0]!;

/** The pre-norm block's two steps in one: sum = x + residual, y = rmsNorm(sum). Returns [y, sum]. */
export function addRmsNorm(x: Tensor, residual: Tensor, weight: Tensor, options: RmsNormOptions): [y: Tensor, sum: Tensor] {
  const [y, sum] = rmsNormOp({ x, weight, residual }, options);
  return [y!, sum!];
}

interface Inputs extends Record<string, Tensor | undefined> {
  x: Tensor;
  weight: Tensor;
  residual: Tensor | undefined;
}

const rmsNormOp = defineOp<Inputs, RmsNormOptions, { sum: Tensor; rstd: Tensor | undefined; weight: Tensor }, Tensor[]>({
  name: "rmsNorm",
  forward({ x, weight, residual }, { eps, unitOffset }, save, recording) {
    const d = x.shape.at(-1) ?? 1;
    if (weight.size !== d) throw mismatch("rmsNorm", "weight", `[${d}] as the last dimension of x`, weight);
    if (residual && !sameShape(x, residual)) throw mismatch("rmsNorm", "residual", `[${x.shape}] as x`, residual);
    const { device } = x;
    const y = Tensor.empty(x.shape, { device });
    const sum = residual ? Tensor.empty(x.shape, { device }) : x;
    const rstd = recording ? Tensor.empty([x.size / d], { device }) : undefined;
    enqueue(y, (k, n) =>
      k.rmsNorm(
        n,
        y.handle,
        residual ? sum.handle : 0,
        handleOf(rstd),
        x.handle,
        handleOf(residual),
        weight.handle,
        eps,
        unitOffset ? 1 : 0,
      ),
    );
    save({ sum, rstd, weight });
    return residual ? [y, sum] : [y];
  },
  backward([dy, dsum], { sum, rstd, weight }, sink, { x, residual }, { eps, unitOffset }) {
    const weightGrad = sink.needs(weight) ? sink.into(weight) : undefined;
    if (weightGrad && !weightGrad.accumulate) enqueue(sum, (k, n) => k.fill(n, weightGrad.tensor.handle, 0));
    const run = (dx: Tensor | undefined, accumulate: boolean) => {
      // Without dy only the gradient of the sum passes through.
      if (dy) {
        enqueue(sum, (k, n) =>
          k.rmsNormGrad(
            n,
            handleOf(dx),
            handleOf(weightGrad?.tensor),
            dy.handle,
            handleOf(dsum),
            sum.handle,
            rstd!.handle,
            weight.handle,
            eps,
            unitOffset ? 1 : 0,
            accumulate ? 1 : 0,
          ),
        );
      } else if (dx && dsum) {
        enqueue(sum, (k, n) => (accumulate ? k.axpy(n, dx.handle, dsum.handle, 1) : k.copy(n, dx.handle, dsum.handle)));
      }
    };
    if (!residual) {
      const into = sink.needs(x) ? sink.into(x) : undefined;
      run(into?.tensor, into?.accumulate ?? false);
    } else if (sink.needs(x) || sink.needs(residual)) {
      const dx = Tensor.empty(sum.shape, { device: sum.device });
      run(dx, false);
      sink.give(x, dx);
      sink.give(residual, dx);
    } else {
      run(undefined, false);
    }
  },
});

/** 1 / √(mean of squares + eps) of every row of x float32 [n, k], and x times it. No gradient. */
export function rowRms(x: Tensor, eps: number): { rstd: Tensor; normed: Tensor } {
  const [n = 0, k = 0] = x.shape;
  const { device } = x;
  const rstd = Tensor.empty([n], { device });
  const normed = Tensor.empty(x.shape, { device });
  const ones = Tensor.from(new Float32Array(k).fill(1), [k], { device });
  enqueue(x, (kernels, d) => kernels.rmsNorm(d, normed.handle, 0, rstd.handle, x.handle, 0, ones.handle, eps, 0));
  ones.dispose();
  return { rstd, normed };
}
