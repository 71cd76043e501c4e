/** The decoder that the Llama-like families share: pre-norm blocks of grouped-query attention with RoPE and a gated MLP. */
import { Embedding } from "../nn/embedding.js";
import { type ForwardMode, Linear, linear } from "../nn/linear.js";
import { Module } from "../nn/module.js";
import { RMSNorm } from "../nn/rms-norm.js";
import { attention, attentionCached, kvAppend, type PagedCache } from "../ops/attention.js";
import { glu } from "../ops/glu.js";
import { reshape } from "../ops/reshape.js";
import { rope } from "../ops/rope.js";
import type { Tensor } from "../tensor/tensor.js";
import type { DecoderConfig } from "./config.js";
import type { ModelWeights } from "./loader.js";

/** What every layer of one forward pass needs besides the hidden states. */
export interface LayerContext {
  mode: ForwardMode;
  cuSeqlens: Tensor;
  maxSeqlen: number;
  /** Cosines and sines of all positions. */
  ropeTable: Tensor;
  /** Keys and values of earlier tokens, per layer; absent: the batch is whole. */
  cache?: ((layer: number) => PagedCache) | undefined;
}

export class Attention extends Module {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly oProj: Linear;

  constructor(
    private readonly config: DecoderConfig,
    private readonly layer: number,
    private readonly path: string,
    weights: ModelWeights,
  ) {
    super();
    this.qProj = linearOf(weights, `${path}.q_proj`);
    this.kProj = linearOf(weights, `${path}.k_proj`);
    this.vProj = linearOf(weights, `${path}.v_proj`);
    this.oProj = linearOf(weights, `${path}.o_proj`);
  }

  /** x [T, hidden] → the same shape. */
  forward(x: Tensor, context: LayerContext): Tensor {
    const { mode, cuSeqlens, maxSeqlen, ropeTable, cache } = context;
    const { numHeads, numKvHeads, headDim } = this.config;
    const tokens = x.shape[0]!;
    const [q, k, v] = linear(x, [this.qProj, this.kProj, this.vProj], mode, `${this.path}.qkv`) as [Tensor, Tensor, Tensor];
    const queries = rope(reshape(q, tokens, numHeads, headDim), ropeTable);
    const keys = rope(reshape(k, tokens, numKvHeads, headDim), ropeTable);
    const values = reshape(v, tokens, numKvHeads, headDim);
    const options = { cuSeqlens, maxSeqlen };
    let mixed: Tensor;
    if (cache) {
      const paged = cache(this.layer);
      kvAppend(paged, keys, values, cuSeqlens);
      mixed = attentionCached(queries, paged, options);
    } else mixed = attention(queries, keys, values, options);
    return linear(reshape(mixed, tokens, numHeads * headDim), [this.oProj], mode, `${this.path}.o_proj`)[0]!;
  }
}

export class Mlp extends Module {
  readonly gateProj: Linear;
  readonly upProj: Linear;
  readonly downProj: Linear;

  constructor(
    private readonly path: string,
    weights: ModelWeights,
  ) {
    super();
    this.gateProj = linearOf(weights, `${path}.gate_proj`);
    this.upProj = linearOf(weights, `${path}.up_proj`);
    this.downProj = linearOf(weights, `${path}.down_proj`);
  }

  /** x [T, hidden] → the same shape. */
  forward(x: Tensor, { mode }: LayerContext): Tensor {
    const [gate, up] = linear(x, [this.gateProj, this.upProj], mode, `${this.path}.gate_up`) as [Tensor, Tensor];
    return linear(glu(gate, up, "silu"), [this.downProj], mode, `${this.path}.down_proj`)[0]!;
  }
}

export class DecoderLayer extends Module {
  readonly selfAttn: Attention;
  readonly mlp: Mlp;
  readonly inputLayernorm: RMSNorm;
  readonly postAttentionLayernorm: RMSNorm;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super();
    const path = `model.layers.${layer}`;
    this.selfAttn = new Attention(config, layer, `${path}.self_attn`, weights);
    this.mlp = new Mlp(`${path}.mlp`, weights);
    this.inputLayernorm = normOf(weights, `${path}.input_layernorm`, config);
    this.postAttentionLayernorm = normOf(weights, `${path}.post_attention_layernorm`, config);
  }

  /**
   * `x` is what the layer before adds to the residual stream, `residual` the stream without it (absent: the stream is x).
   * Returns the same two for the next layer: each addition is part of the norm that follows it.
   */
  forward(x: Tensor, residual: Tensor | undefined, context: LayerContext): [x: Tensor, residual: Tensor] {
    const { mode } = context;
    const [normed, stream] = normAdd(this.inputLayernorm, x, residual, mode);
    const [hidden, sum] = this.postAttentionLayernorm.forwardAdd(this.selfAttn.forward(normed, context), stream, mode);
    return [this.mlp.forward(hidden, context), sum];
  }
}

/** Path `model`: embedding, layers, final norm. */
export class DecoderModel extends Module {
  readonly embedTokens: Embedding;
  readonly layers: DecoderLayer[];
  readonly norm: RMSNorm;

  constructor(config: DecoderConfig, weights: ModelWeights) {
    super();
    this.embedTokens = new Embedding(weights.tensor("model.embed_tokens.weight"));
    this.layers = Array.from({ length: config.numLayers }, (_, i) => new DecoderLayer(config, i, weights));
    this.norm = normOf(weights, "model.norm", config);
  }
}

/** [norm of the stream, the stream x + residual]. */
export function normAdd(norm: RMSNorm, x: Tensor, residual: Tensor | undefined, mode: ForwardMode): [y: Tensor, sum: Tensor] {
  return residual ? norm.forwardAdd(x, residual, mode) : [norm.forward(x, mode), x];
}

function linearOf(weights: ModelWeights, path: string): Linear {
  return new Linear(weights.weight(`${path}.weight`), weights.tensors.get(`${path}.bias`));
}

function normOf(weights: ModelWeights, path: string, config: DecoderConfig): RMSNorm {
  return new RMSNorm(weights.tensor(`${path}.weight`), config.rmsNormEps);
}
