import { type DecoderConfig, readDecoderConfig } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

/** Qwen2 and Qwen2.5: Llama with biases on q, k and v. A sliding window is refused where it would be active. */
export function readQwen2Config(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, "Qwen2ForCausalLM", { qkv: true, o: false, mlp: false });
  // Layers from max_window_layers on use the window.
  const windowed = config.has("sliding_window") && config.number("max_window_layers", 28) < decoder.numLayers;
  if (config.boolean("use_sliding_window", false) && windowed) config.unsupported("use_sliding_window", "true");
  config.finish("config.json of this qwen2 model");
  return decoder;
}
