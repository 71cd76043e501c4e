import { type LayerTensors, llamaLayer, normTensor, weightLayout } from "../layout.js";

export const gemma2Layer: LayerTensors = (config) => [
  ...llamaLayer(config),
  normTensor("pre_feedforward_layernorm", config.hiddenSize),
  normTensor("post_feedforward_layernorm", config.hiddenSize),
];

export const gemma2Weights = weightLayout(gemma2Layer);
