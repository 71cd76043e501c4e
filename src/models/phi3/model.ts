import { type AttentionBase, FusedAttention } from "../attention.js";
import { CausalLM, type ModelParts } from "../causal-lm.js";
import type { DecoderConfig } from "../config.js";
import { DecoderLayer } from "../decoder.js";
import type { ModelFamily } from "../family.js";
import type { ModelWeights } from "../loader.js";
import { FusedMlp, type MlpBase } from "../mlp.js";
import { phi3Defaults, readPhi3Config } from "./config.js";
import { phi3Weights } from "./weights.js";

class Phi3Layer extends DecoderLayer {
  protected override attention(config: DecoderConfig, layer: number, weights: ModelWeights): AttentionBase {
    return new FusedAttention(config, layer, weights);
  }

  protected override feedForward(config: DecoderConfig, layer: number, weights: ModelWeights): MlpBase {
    return new FusedMlp(config, layer, weights);
  }
}

/** Phi-3: the shared decoder with fused projections. */
export class Phi3ForCausalLM extends CausalLM {
  constructor(parts: ModelParts) {
    super(parts, Phi3Layer);
  }
}

export const phi3: ModelFamily = {
  defaults: phi3Defaults,
  readConfig: readPhi3Config,
  model: Phi3ForCausalLM,
  weights: phi3Weights,
};
