import { rmsNorm } from "../ops/rms-norm.js";
import type { Tensor } from "../tensor/tensor.js";
import { Adaptable, BASE_ONLY, byRange } from "./adapter-slot.js";
import type { ForwardMode } from "./linear.js";

/** RMSNorm with a float32 weight [d], which counts from one with `unitOffset` (Gemma). */
export class RMSNorm extends Adaptable {
  weight: Tensor;
  readonly eps: number;
  readonly unitOffset: boolean;

  constructor(weight: Tensor, eps: number, unitOffset = false) {
    super();
    this.weight = weight;
    this.eps = eps;
    this.unitOffset = unitOffset;
  }

  /** x [..., d] → the same shape; plus `residual`, of that shape too. */
  forward(x: Tensor, mode: ForwardMode, residual?: Tensor): Tensor {
    const { eps, unitOffset } = this;
    return byRange(mode.adapters ?? BASE_ONLY, [this.adapters], residual ? [x, residual] : [x], ([x, residual], names) => {
      // A copy that the acting adapters give comes in the place of the module's own.
      const copy = this.adapters.of(names).find(({ weight }) => weight)?.weight;
      return [rmsNorm(x!, copy ?? this.weight, { eps, unitOffset }, residual)];
    })[0]!;
  }

  override *tensors(): Iterable<[string, Tensor]> {
    yield ["weight", this.weight];
  }

  override dispose(): void {
    super.dispose();
    this.weight.dispose();
  }
}
