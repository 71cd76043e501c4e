import { gemma2Layer } from "../gemma2/weights.js";
import { normTensor, weightLayout } from "../layout.js";

export const gemma3TextWeights = weightLayout((config) => [
  ...gemma2Layer(config),
  normTensor("self_attn.q_norm", config.headDim),
  normTensor("self_attn.k_norm", config.headDim),
]);
