import { type AttentionBase, HeadNormAttention } from "../attention.js";
import { CausalLM, type ModelParts } from "../causal-lm.js";
import type { DecoderConfig } from "../config.js";
import type { ModelFamily } from "../family.js";
import { Gemma2Layer } from "../gemma2/model.js";
import type { ModelWeights } from "../loader.js";
import { gemma3TextDefaults, readGemma3TextConfig } from "./config.js";
import { gemma3TextWeights } from "./weights.js";

class Gemma3Layer extends Gemma2Layer {
  protected override attention(config: DecoderConfig, layer: number, weights: ModelWeights): AttentionBase {
    return new HeadNormAttention(config, layer, weights);
  }
}

export class Gemma3ForCausalLM extends CausalLM {
  constructor(parts: ModelParts) {
    super(parts, Gemma3Layer);
  }
}

export const gemma3Text: ModelFamily = {
  defaults: gemma3TextDefaults,
  readConfig: readGemma3TextConfig,
  model: Gemma3ForCausalLM,
  weights: gemma3TextWeights,
};
