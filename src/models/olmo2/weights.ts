import { attentionTensors, mlpTensors, normTensor, weightLayout } from "../layout.js";

export const olmo2Weights = weightLayout((config) => [
  ...attentionTensors(config),
  ...mlpTensors(config),
  normTensor("self_attn.q_norm", config.numHeads * config.headDim),
  normTensor("self_attn.k_norm", config.numKvHeads * config.headDim),
  normTensor("post_attention_layernorm", config.hiddenSize),
  normTensor("post_feedforward_layernorm", config.hiddenSize),
]);
