import { CausalLM } from "../causal-lm.js";

/** Llama 1 to 3.x: the shared decoder as it is. */
export class LlamaForCausalLM extends CausalLM {}
