import { type DecoderConfig, readBiases, readDecoderConfig } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

export const llamaDefaults = { max_position_embeddings: 2048, rms_norm_eps: 1e-6, tie_word_embeddings: false };

/** Llama 1 to 3.x and models that share its config (SmolLM, TinyLlama, Yi …). `pretraining_tp` only orders additions: ignored, as in transformers 5. */
export function readLlamaConfig(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, { architecture: "LlamaForCausalLM", bias: readBiases(config) });
  config.finish("config.json of this llama model");
  return decoder;
}
