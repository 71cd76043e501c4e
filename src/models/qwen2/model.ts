import { CausalLM } from "../causal-lm.js";
import type { ModelFamily } from "../family.js";
import { qwen2Defaults, readQwen2Config } from "./config.js";
import { qwen2Weights } from "./weights.js";

/** Qwen2 and Qwen2.5: the shared decoder; what differs, biases on q, k and v, stands in its config. */
export class Qwen2ForCausalLM extends CausalLM {}

export const qwen2: ModelFamily = {
  defaults: qwen2Defaults,
  readConfig: readQwen2Config,
  model: Qwen2ForCausalLM,
  weights: qwen2Weights,
};
