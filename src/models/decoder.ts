/** The decoder that families share: pre-norm blocks of attention and a gated MLP. A family with other blocks gives a layer of its own. */
import { Embedding } from "../nn/embedding.js";
import { Module } from "../nn/module.js";
import type { RMSNorm } from "../nn/rms-norm.js";
import type { Tensor } from "../tensor/tensor.js";
import { Attention, type AttentionBase } from "./attention.js";
import type { DecoderConfig } from "./config.js";
import { normOf } from "./from-weights.js";
import type { LayerContext } from "./layer-context.js";
import type { ModelWeights } from "./loader.js";
import { Mlp, type MlpBase } from "./mlp.js";

/** Path `model.layers.N`. */
export abstract class Layer extends Module {
  abstract readonly selfAttn: AttentionBase;
  abstract readonly mlp: MlpBase;

  /** The residual stream [T, hidden] → the stream with what the layer adds to it. */
  abstract forward(stream: Tensor, context: LayerContext): Tensor;
}

export type LayerClass = new (config: DecoderConfig, layer: number, weights: ModelWeights) => Layer;

/** The block of Llama: a norm before attention and one before the MLP. */
export class DecoderLayer extends Layer {
  readonly selfAttn: AttentionBase;
  readonly mlp: MlpBase;
  readonly inputLayernorm: RMSNorm;
  readonly postAttentionLayernorm: RMSNorm;

  constructor(
    protected readonly config: DecoderConfig,
    layer: number,
    weights: ModelWeights,
  ) {
    super();
    const path = `model.layers.${layer}`;
    this.selfAttn = this.attention(config, layer, weights);
    this.mlp = this.feedForward(config, layer, weights);
    this.inputLayernorm = normOf(weights, `${path}.input_layernorm`, config);
    this.postAttentionLayernorm = normOf(weights, `${path}.post_attention_layernorm`, config);
  }

  override forward(stream: Tensor, context: LayerContext): Tensor {
    const attended = this.plus(stream, this.selfAttn, this.inputLayernorm, context);
    return this.plus(attended, this.mlp, this.postAttentionLayernorm, context);
  }

  protected attention(config: DecoderConfig, layer: number, weights: ModelWeights): AttentionBase {
    return new Attention(config, layer, weights);
  }

  protected feedForward(config: DecoderConfig, layer: number, weights: ModelWeights): MlpBase {
    return new Mlp(config, layer, weights);
  }

  /** The stream with what `part` makes of its norm. */
  protected plus(stream: Tensor, part: AttentionBase | MlpBase, norm: RMSNorm, context: LayerContext): Tensor {
    return part.forward(norm.forward(stream, context.mode), context, stream);
  }
}

/** Path `model`: embedding, layers, final norm. */
export class DecoderModel extends Module {
  readonly embedTokens: Embedding;
  readonly layers: Layer[];
  readonly norm: RMSNorm;

  constructor(config: DecoderConfig, weights: ModelWeights, layer: LayerClass) {
    super();
    this.embedTokens = new Embedding(weights.tensor("model.embed_tokens.weight"), config.embeddingScale);
    this.layers = Array.from({ length: config.numLayers }, (_, i) => new layer(config, i, weights));
    this.norm = normOf(weights, "model.norm", config);
  }
}
