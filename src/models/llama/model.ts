import { CausalLM } from "../causal-lm.js";
import type { ModelFamily } from "../family.js";
import { llamaDefaults, readLlamaConfig } from "./config.js";
import { llamaWeights } from "./weights.js";

/** Llama 1 to 3.x: the shared decoder as it is. */
export class LlamaForCausalLM extends CausalLM {}

export const llama: ModelFamily = {
  defaults: llamaDefaults,
  readConfig: readLlamaConfig,
  model: LlamaForCausalLM,
  weights: llamaWeights,
};
