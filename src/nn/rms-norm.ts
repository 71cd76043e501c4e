import { addRmsNorm, rmsNorm } from "../ops/rms-norm.js";
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

  /** x [..., d] → the same shape. */
  forward(x: Tensor, mode: ForwardMode): Tensor {
    const { eps, unitOffset } = this;
    return this.#run([x], mode, ([x], weight) => [rmsNorm(x!, weight, { eps, unitOffset })])[0]!;
  }

  /** sum = x + residual, then its norm: [y, sum]. */
  forwardAdd(x: Tensor, residual: Tensor, mode: ForwardMode): [y: Tensor, sum: Tensor] {
    const { eps, unitOffset } = this;
    const [y, sum] = this.#run([x, residual], mode, ([x, residual], weight) =>
      addRmsNorm(x!, residual!, weight, { eps, unitOffset }),
    );
    return [y!, sum!];
  }

  /** `body` with the weight that the acting adapters give: a copy of their own, or the module's. */
  #run(inputs: readonly Tensor[], mode: ForwardMode, body: (inputs: readonly Tensor[], weight: Tensor) => Tensor[]): Tensor[] {
    return byRange(mode.adapters ?? BASE_ONLY, [this.adapters], inputs, (inputs, names) => {
      const copy = this.adapters.of(names).find(({ weight }) => weight)?.weight;
      return body(inputs, copy ?? this.weight);
    });
  }

  override *tensors(): Iterable<[string, Tensor]> {
    yield ["weight", this.weight];
  }

  override dispose(): void {
    super.dispose();
    this.weight.dispose();
  }
}
