import { decoderTensors, type WeightLayout } from "../layout.js";

/** Biases on q, k and v come from the config; tied checkpoints may carry the head a second time. */
export const qwen2Weights: WeightLayout = { tensors: decoderTensors, ignored: /^lm_head\.weight$/ };
