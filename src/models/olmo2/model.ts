import type { ForwardMode } from "../../nn/linear.js";
import type { RMSNorm } from "../../nn/rms-norm.js";
import type { Tensor } from "../../tensor/tensor.js";
import { NormedAttention, type Projected } from "../attention.js";
import { CausalLM, type ModelParts } from "../causal-lm.js";
import type { DecoderConfig } from "../config.js";
import { Layer } from "../decoder.js";
import type { ModelFamily } from "../family.js";
import { normOf } from "../from-weights.js";
import type { LayerContext } from "../layer-context.js";
import type { ModelWeights } from "../loader.js";
import { Mlp } from "../mlp.js";
import { olmo2Defaults, readOlmo2Config } from "./config.js";
import { olmo2Weights } from "./weights.js";

/** With a norm over all heads of q together, and one over those of k. */
class Olmo2Attention extends NormedAttention {
  protected override linears(x: Tensor, mode: ForwardMode): Projected {
    return this.normed(super.linears(x, mode), mode);
  }
}

/** What attention and MLP give is normed, not what they read. */
class Olmo2Layer extends Layer {
  readonly selfAttn: Olmo2Attention;
  readonly mlp: Mlp;
  readonly postAttentionLayernorm: RMSNorm;
  readonly postFeedforwardLayernorm: RMSNorm;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super();
    const path = `model.layers.${layer}`;
    this.selfAttn = new Olmo2Attention(config, layer, weights);
    this.mlp = new Mlp(config, layer, weights);
    this.postAttentionLayernorm = normOf(weights, `${path}.post_attention_layernorm`, config);
    this.postFeedforwardLayernorm = normOf(weights, `${path}.post_feedforward_layernorm`, config);
  }

  override forward(stream: Tensor, context: LayerContext): Tensor {
    const { mode } = context;
    const attended = this.postAttentionLayernorm.forward(this.selfAttn.forward(stream, context), mode, stream);
    return this.postFeedforwardLayernorm.forward(this.mlp.forward(attended, context), mode, attended);
  }
}

export class Olmo2ForCausalLM extends CausalLM {
  constructor(parts: ModelParts) {
    super(parts, Olmo2Layer);
  }
}

export const olmo2: ModelFamily = {
  defaults: olmo2Defaults,
  readConfig: readOlmo2Config,
  model: Olmo2ForCausalLM,
  weights: olmo2Weights,
};
