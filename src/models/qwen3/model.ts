import { type AttentionBase, HeadNormAttention } from "../attention.js";
import { CausalLM, type ModelParts } from "../causal-lm.js";
import type { DecoderConfig } from "../config.js";
import { DecoderLayer } from "../decoder.js";
import type { ModelFamily } from "../family.js";
import type { ModelWeights } from "../loader.js";
import { qwen3Defaults, readQwen3Config } from "./config.js";
import { qwen3Weights } from "./weights.js";

class Qwen3Layer extends DecoderLayer {
  protected override attention(config: DecoderConfig, layer: number, weights: ModelWeights): AttentionBase {
    return new HeadNormAttention(config, layer, weights);
  }
}

/** Qwen3: the shared decoder with norms on q and k. */
export class Qwen3ForCausalLM extends CausalLM {
  constructor(parts: ModelParts) {
    super(parts, Qwen3Layer);
  }
}

export const qwen3: ModelFamily = {
  defaults: qwen3Defaults,
  readConfig: readQwen3Config,
  model: Qwen3ForCausalLM,
  weights: qwen3Weights,
};
