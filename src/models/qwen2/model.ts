import { CausalLM } from "../causal-lm.js";

/** Qwen2 and Qwen2.5: the shared decoder; what differs, biases on q, k and v, stands in its config. */
export class Qwen2ForCausalLM extends CausalLM {}
