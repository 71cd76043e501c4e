import { type DecoderConfig, readDecoderConfig } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

/** Llama 1 to 3.x and models that share its config (SmolLM, TinyLlama, Yi …). `pretraining_tp` only orders additions: ignored, as in transformers 5. */
export function readLlamaConfig(config: ConfigReader): DecoderConfig {
  const attention = config.boolean("attention_bias", false);
  const decoder = readDecoderConfig(config, "LlamaForCausalLM", {
    qkv: attention,
    o: attention,
    mlp: config.boolean("mlp_bias", false),
  });
  config.finish("config.json of this llama model");
  return decoder;
}
