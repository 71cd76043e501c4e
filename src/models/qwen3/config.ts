import { type DecoderConfig, readAttentionBias, readDecoderConfig } from "../config.js";
import type { ConfigReader } from "../config-reader.js";
import { qwen2Defaults, readQwenLayers } from "../qwen2/config.js";

export const qwen3Defaults = { ...qwen2Defaults, head_dim: 128 };

/** Qwen3: no biases by default, a norm over each head of q and k, and a head size of its own. */
export function readQwen3Config(config: ConfigReader): DecoderConfig {
  const bias = readAttentionBias(config);
  const decoder = readDecoderConfig(config, { architecture: "Qwen3ForCausalLM", computes: ["layer_types"], bias });
  const layers = readQwenLayers(config, decoder.numLayers);
  config.finish("config.json of this qwen3 model");
  return { ...decoder, layers };
}
