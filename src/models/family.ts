import type { CausalLM, ModelParts } from "./causal-lm.js";
import type { DecoderConfig } from "./config.js";
import type { ConfigReader } from "./config-reader.js";
import type { WeightLayout } from "./layout.js";

/** What a family gives the registry. */
export interface ModelFamily {
  /** What its config class in transformers takes for a key that config.json lacks; null is kept. */
  defaults: Readonly<Record<string, unknown>>;
  readConfig(config: ConfigReader): DecoderConfig;
  model: new (parts: ModelParts) => CausalLM;
  weights: WeightLayout;
}
