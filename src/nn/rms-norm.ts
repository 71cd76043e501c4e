import { addRmsNorm, rmsNorm } from "../ops/rms-norm.js";
import type { Tensor } from "../tensor/tensor.js";
import { Module } from "./module.js";

/** RMSNorm with a float32 weight [d]. */
export class RMSNorm extends Module {
  weight: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, eps: number) {
    super();
    this.weight = weight;
    this.eps = eps;
  }

  /** x [..., d] → the same shape. */
  forward(x: Tensor): Tensor {
    return rmsNorm(x, this.weight, { eps: this.eps });
  }

  /** sum = x + residual, then its norm: [y, sum]. */
  forwardAdd(x: Tensor, residual: Tensor): [y: Tensor, sum: Tensor] {
    return addRmsNorm(x, residual, this.weight, { eps: this.eps });
  }

  override *tensors(): Iterable<[string, Tensor]> {
    yield ["weight", this.weight];
  }

  override dispose(): void {
    this.weight.dispose();
  }
}
