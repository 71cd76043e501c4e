import { decoderTensors, IGNORED_TENSORS, type WeightLayout } from "../layout.js";

/** Biases on q, k and v come from the config. */
export const qwen2Weights: WeightLayout = { tensors: decoderTensors, ignored: IGNORED_TENSORS };
