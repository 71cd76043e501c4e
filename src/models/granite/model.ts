import type { RMSNorm } from "../../nn/rms-norm.js";
import { add, scale } from "../../ops/elementwise.js";
import type { Tensor } from "../../tensor/tensor.js";
import type { AttentionBase } from "../attention.js";
import { CausalLM, type ModelParts } from "../causal-lm.js";
import { DecoderLayer } from "../decoder.js";
import type { ModelFamily } from "../family.js";
import type { LayerContext } from "../layer-context.js";
import type { MlpBase } from "../mlp.js";
import { graniteDefaults, readGraniteConfig } from "./config.js";
import { graniteWeights } from "./weights.js";

class GraniteLayer extends DecoderLayer {
  protected override plus(stream: Tensor, part: AttentionBase | MlpBase, norm: RMSNorm, context: LayerContext): Tensor {
    return add(stream, scale(part.forward(norm.forward(stream, context.mode), context), this.config.residualScale));
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
