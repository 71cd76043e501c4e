import { CausalLM } from "../causal-lm.js";
import type { ModelFamily } from "../family.js";
import { readSmolLM3Config, smollm3Defaults } from "./config.js";
import { smollm3Weights } from "./weights.js";

/** SmolLM3: the shared decoder; which layers rotate stands in its config. */
export class SmolLM3ForCausalLM extends CausalLM {}

export const smollm3: ModelFamily = {
  defaults: smollm3Defaults,
  readConfig: readSmolLM3Config,
  model: SmolLM3ForCausalLM,
  weights: smollm3Weights,
};
