import type { ForwardMode } from "../nn/linear.js";
import type { PagedCache } from "../ops/attention.js";
import type { Tensor } from "../tensor/tensor.js";

/** What every layer of one forward pass needs besides the hidden states. */
export interface LayerContext {
  mode: ForwardMode;
  cuSeqlens: Tensor;
  maxSeqlen: number;
  /** Cosines and sines of all positions, for each of the model's ropes. */
  ropeTables: readonly Tensor[];
  /** Keys and values of earlier tokens, per layer; absent: the batch is whole. */
  cache?: ((layer: number) => PagedCache) | undefined;
}
