import { scale } from "../../ops/elementwise.js";
import type { Tensor } from "../../tensor/tensor.js";
import { CausalLM, type ModelParts } from "../causal-lm.js";
import { DecoderLayer } from "../decoder.js";
import type { ModelFamily } from "../family.js";
import { graniteDefaults, readGraniteConfig } from "./config.js";
import { graniteWeights } from "./weights.js";

class GraniteLayer extends DecoderLayer {
  protected override scaled(x: Tensor): Tensor {
    return scale(x, this.config.residualScale);
  }
}

/** Granite: the shared decoder with factors. */
export class GraniteForCausalLM extends CausalLM {
  constructor(parts: ModelParts) {
    super(parts, GraniteLayer);
  }
}

export const granite: ModelFamily = {
  defaults: graniteDefaults,
  readConfig: readGraniteConfig,
  model: GraniteForCausalLM,
  weights: graniteWeights,
};
