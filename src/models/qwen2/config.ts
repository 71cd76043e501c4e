import { type DecoderConfig, type LayerConfig, readDecoderConfig, readLayers, readWindow } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

export const qwen2Defaults = {
  max_position_embeddings: 32768,
  max_window_layers: 28,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
  tie_word_embeddings: false,
  use_sliding_window: false,
};

/** Qwen2 and Qwen2.5: Llama with biases on q, k and v, and in some models a sliding window in the later layers. */
export function readQwen2Config(config: ConfigReader): DecoderConfig {
  const bias = { qkv: true, o: false, mlp: false };
  const decoder = readDecoderConfig(config, { architecture: "Qwen2ForCausalLM", computes: ["layer_types"], bias });
  const layers = readQwenLayers(config, decoder.numLayers);
  config.finish("config.json of this qwen2 model");
  return { ...decoder, layers };
}

/** Where `use_sliding_window` is set, layers from `max_window_layers` on have the window unless `layer_types` says otherwise. */
export function readQwenLayers(config: ConfigReader, count: number): LayerConfig[] {
  const uses = config.boolean("use_sliding_window", false);
  const window = readWindow(config);
  const first = config.number("max_window_layers", 28);
  const active = uses ? window : undefined;
  return readLayers(config, count, active, (i) => (active !== undefined && i >= first ? "sliding_attention" : "full_attention"));
}
