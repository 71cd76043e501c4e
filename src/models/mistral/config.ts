import { type DecoderConfig, readDecoderConfig, readWindow, uniformLayers } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

export const mistralDefaults = {
  max_position_embeddings: 131072,
  num_key_value_heads: 8,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
  tie_word_embeddings: false,
};

/** Mistral: Llama with a sliding window in every layer; a `sliding_window` of null is none. */
export function readMistralConfig(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, { architecture: "MistralForCausalLM", computes: ["layer_types"] });
  const window = readWindow(config);
  // Ministral's alternating layers have this model_type in some files; transformers' Mistral does not compute them either.
  const types = config.value("layer_types");
  const type = window === undefined ? "full_attention" : "sliding_attention";
  if (Array.isArray(types) && types.some((other) => other !== type))
    config.unsupported("layer_types", `layers that are not ${type}`);
  config.accept("attention_bias", [false]);
  config.accept("mlp_bias", [false]);
  config.finish("config.json of this mistral model");
  return { ...decoder, layers: uniformLayers(decoder.numLayers, window) };
}
