import { linearTensors, normTensor, weightLayout } from "../layout.js";

export const phi3Weights = weightLayout(({ hiddenSize, intermediateSize, numHeads, numKvHeads, headDim }) => [
  ...linearTensors("self_attn.o_proj", hiddenSize, numHeads * headDim),
  ...linearTensors("self_attn.qkv_proj", (numHeads + 2 * numKvHeads) * headDim, hiddenSize),
  ...linearTensors("mlp.gate_up_proj", 2 * intermediateSize, hiddenSize),
  ...linearTensors("mlp.down_proj", hiddenSize, intermediateSize),
  normTensor("input_layernorm", hiddenSize),
  normTensor("post_attention_layernorm", hiddenSize),
]);
