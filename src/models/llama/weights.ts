import { decoderTensors, type WeightLayout } from "../layout.js";

/** Old checkpoints carry the rotary frequencies, which are computed from the config; tied ones may carry the head a second time. */
export const llamaWeights: WeightLayout = { tensors: decoderTensors, ignored: /(\.rotary_emb\.inv_freq|^lm_head\.weight)$/ };
