import { type DecoderConfig, readAttentionBias, readDecoderConfig } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

export const olmo2Defaults = { max_position_embeddings: 2048, rms_norm_eps: 1e-5, tie_word_embeddings: false };

/** OLMo 2: norms after attention and MLP instead of before, and over the whole of q and of k. */
export function readOlmo2Config(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, { architecture: "Olmo2ForCausalLM", bias: readAttentionBias(config) });
  config.accept("clip_qkv", []);
  config.finish("config.json of this olmo2 model");
  return decoder;
}
