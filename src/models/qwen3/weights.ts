import { llamaLayer, normTensor, weightLayout } from "../layout.js";

export const qwen3Weights = weightLayout((config) => [
  ...llamaLayer(config),
  normTensor("self_attn.q_norm", config.headDim),
  normTensor("self_attn.k_norm", config.headDim),
]);
