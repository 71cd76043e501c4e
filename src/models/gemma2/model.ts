import type { RMSNorm } from "../../nn/rms-norm.js";
import type { Tensor } from "../../tensor/tensor.js";
import { Attention, type AttentionBase } from "../attention.js";
import { CausalLM, type ModelParts } from "../causal-lm.js";
import type { DecoderConfig } from "../config.js";
import { Layer } from "../decoder.js";
import type { ModelFamily } from "../family.js";
import { normOf } from "../from-weights.js";
import type { LayerContext } from "../layer-context.js";
import type { ModelWeights } from "../loader.js";
import { Mlp } from "../mlp.js";
import { gemma2Defaults, readGemma2Config } from "./config.js";
import { gemma2Weights } from "./weights.js";

/** A norm before and one after each of attention and MLP. */
export class Gemma2Layer extends Layer {
  readonly selfAttn: AttentionBase;
  readonly mlp: Mlp;
  readonly inputLayernorm: RMSNorm;
  readonly postAttentionLayernorm: RMSNorm;
  readonly preFeedforwardLayernorm: RMSNorm;
  readonly postFeedforwardLayernorm: RMSNorm;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super();
    const path = `model.layers.${layer}`;
    this.selfAttn = this.attention(config, layer, weights);
    this.mlp = new Mlp(config, layer, weights);
    this.inputLayernorm = normOf(weights, `${path}.input_layernorm`, config);
    this.postAttentionLayernorm = normOf(weights, `${path}.post_attention_layernorm`, config);
    this.preFeedforwardLayernorm = normOf(weights, `${path}.pre_feedforward_layernorm`, config);
    this.postFeedforwardLayernorm = normOf(weights, `${path}.post_feedforward_layernorm`, config);
  }

  override forward(stream: Tensor, context: LayerContext): Tensor {
    const { mode } = context;
    const mixed = this.selfAttn.forward(this.inputLayernorm.forward(stream, mode), context);
    const attended = this.postAttentionLayernorm.forward(mixed, mode, stream);
    const hidden = this.mlp.forward(this.preFeedforwardLayernorm.forward(attended, mode), context);
    return this.postFeedforwardLayernorm.forward(hidden, mode, attended);
  }

  protected attention(config: DecoderConfig, layer: number, weights: ModelWeights): AttentionBase {
    return new Attention(config, layer, weights);
  }
}

export class Gemma2ForCausalLM extends CausalLM {
  constructor(parts: ModelParts) {
    super(parts, Gemma2Layer);
  }
}

export const gemma2: ModelFamily = {
  defaults: gemma2Defaults,
  readConfig: readGemma2Config,
  model: Gemma2ForCausalLM,
  weights: gemma2Weights,
};
