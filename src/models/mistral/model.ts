import { CausalLM } from "../causal-lm.js";
import type { ModelFamily } from "../family.js";
import { mistralDefaults, readMistralConfig } from "./config.js";
import { mistralWeights } from "./weights.js";

/** Mistral: the shared decoder; its window stands in its config. */
export class MistralForCausalLM extends CausalLM {}

export const mistral: ModelFamily = {
  defaults: mistralDefaults,
  readConfig: readMistralConfig,
  model: MistralForCausalLM,
  weights: mistralWeights,
};
