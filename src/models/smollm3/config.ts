import { type DecoderConfig, readBiases, readDecoderConfig, readLayers, readWindow } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

export const smollm3Defaults = {
  max_position_embeddings: 32768,
  no_rope_layer_interval: 4,
  num_key_value_heads: 4,
  rms_norm_eps: 1e-6,
  rope_theta: 2e6,
  tie_word_embeddings: true,
  use_sliding_window: false,
};

/** SmolLM3: Llama in which some layers rotate no positions in; those may have a sliding window. */
export function readSmolLM3Config(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, {
    architecture: "SmolLM3ForCausalLM",
    bias: readBiases(config),
    computes: ["layer_types", "no_rope_layers"],
  });
  const rotates = readRotatingLayers(config, decoder.numLayers);
  const window = readWindow(config);
  const uses = config.boolean("use_sliding_window", false) && window !== undefined;
  const layers = readLayers(config, decoder.numLayers, window, (i) =>
    uses && !rotates[i] ? "sliding_attention" : "full_attention",
  );
  config.finish("config.json of this smollm3 model");
  return {
    ...decoder,
    layers: layers.map(({ window }, i) => ({ window, rope: rotates[i] ? 0 : undefined })),
  };
}

/** Of each layer whether positions are rotated in: `no_rope_layers`, whose name says the opposite, or all but each last of an interval. */
function readRotatingLayers(config: ConfigReader, count: number): boolean[] {
  const interval = config.size("no_rope_layer_interval", 4);
  const given = config.value("no_rope_layers");
  if (given === undefined) return Array.from({ length: count }, (_, i) => (i + 1) % interval !== 0);
  const isList = Array.isArray(given) && given.length >= count && given.every((flag) => flag === 0 || flag === 1);
  if (!isList) config.invalid("no_rope_layers", `must be a list of at least ${count} times 0 or 1`);
  return Array.from({ length: count }, (_, i) => isList && given[i] === 1);
}
