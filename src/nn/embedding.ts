import { embedding } from "../ops/embedding.js";
import type { Tensor } from "../tensor/tensor.js";
import { Module } from "./module.js";

/** A table of rows [vocab, d], in whatever dtype the checkpoint has. */
export class Embedding extends Module {
  weight: Tensor;

  constructor(weight: Tensor) {
    super();
    this.weight = weight;
  }

  /** ids int32 [T] → float32 [T, d]. */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids);
  }

  override *tensors(): Iterable<[string, Tensor]> {
    yield ["weight", this.weight];
  }

  override dispose(): void {
    this.weight.dispose();
  }
}
