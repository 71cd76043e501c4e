/** Attention blocks (path `self_attn`): how q, k and v are made differs, how tokens are mixed does not. */
import { type ForwardMode, type Linear, linear } from "../nn/linear.js";
import { Module } from "../nn/module.js";
import type { RMSNorm } from "../nn/rms-norm.js";
import { attention, attentionCached, kvAppend } from "../ops/attention.js";
import { splitColumns } from "../ops/columns.js";
import { reshape } from "../ops/reshape.js";
import { rope } from "../ops/rope.js";
import type { Tensor } from "../tensor/tensor.js";
import type { DecoderConfig } from "./config.js";
import { linearOf, normOf } from "./from-weights.js";
import type { LayerContext } from "./layer-context.js";
import type { ModelWeights } from "./loader.js";

/** Queries [T, H, D], keys and values [T, Hkv, D]. */
export type Projected = [q: Tensor, k: Tensor, v: Tensor];

export abstract class AttentionBase extends Module {
  abstract readonly oProj: Linear;
  protected readonly path: string;

  constructor(
    protected readonly config: DecoderConfig,
    private readonly layer: number,
  ) {
    super();
    this.path = `model.layers.${layer}.self_attn`;
  }

  /** Before positions are rotated in. */
  protected abstract project(x: Tensor, mode: ForwardMode): Projected;

  /** x [T, hidden] → the same shape; plus `residual`, of that shape too. */
  forward(x: Tensor, context: LayerContext, residual?: Tensor): Tensor {
    const { mode, cuSeqlens, maxSeqlen, ropeTables, cache } = context;
    const { numHeads, headDim, layers, attention: scores } = this.config;
    const { window, rope: ropeIndex } = layers[this.layer]!;
    const table = ropeIndex === undefined ? undefined : ropeTables[ropeIndex]!;
    const [q, k, values] = this.project(x, mode);
    const queries = table ? rope(q, table) : q;
    const keys = table ? rope(k, table) : k;
    const options = {
      cuSeqlens,
      maxSeqlen,
      scale: scores.scale,
      bf16: mode.bf16 ?? false,
      ...(window !== undefined && { window }),
      ...(scores.softcap !== undefined && { softcap: scores.softcap }),
    };
    let mixed: Tensor;
    if (cache) {
      const paged = cache(this.layer);
      kvAppend(paged, keys, values, cuSeqlens);
      mixed = attentionCached(queries, paged, options);
    } else mixed = attention(queries, keys, values, options);
    const heads = reshape(mixed, x.shape[0]!, numHeads * headDim);
    return linear(heads, [this.oProj], mode, `${this.path}.o_proj`, residual)[0]!;
  }

  /** q, k, v as they come out of their linears, by heads. */
  protected byHeads([q, k, v]: readonly Tensor[]): Projected {
    const { numHeads, numKvHeads, headDim } = this.config;
    const tokens = q!.shape[0]!;
    return [
      reshape(q!, tokens, numHeads, headDim),
      reshape(k!, tokens, numKvHeads, headDim),
      reshape(v!, tokens, numKvHeads, headDim),
    ];
  }
}

/** A linear each for q, k and v. */
export class Attention extends AttentionBase {
  readonly qProj: Linear;
  readonly kProj: Linear;
  readonly vProj: Linear;
  readonly oProj: Linear;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super(config, layer);
    this.qProj = linearOf(weights, `${this.path}.q_proj`);
    this.kProj = linearOf(weights, `${this.path}.k_proj`);
    this.vProj = linearOf(weights, `${this.path}.v_proj`);
    this.oProj = linearOf(weights, `${this.path}.o_proj`);
  }

  protected linears(x: Tensor, mode: ForwardMode): Projected {
    return linear(x, [this.qProj, this.kProj, this.vProj], mode, `${this.path}.qkv`) as Projected;
  }

  protected override project(x: Tensor, mode: ForwardMode): Projected {
    return this.byHeads(this.linears(x, mode));
  }
}

/** With norms of q and k; what they run over is the subclass's. */
export abstract class NormedAttention extends Attention {
  readonly qNorm: RMSNorm;
  readonly kNorm: RMSNorm;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super(config, layer, weights);
    this.qNorm = normOf(weights, `${this.path}.q_norm`, config);
    this.kNorm = normOf(weights, `${this.path}.k_norm`, config);
  }

  protected normed([q, k, v]: Projected, mode: ForwardMode): Projected {
    return [this.qNorm.forward(q, mode), this.kNorm.forward(k, mode), v];
  }
}

/** With a norm over each head of q and of k. */
export class HeadNormAttention extends NormedAttention {
  protected override project(x: Tensor, mode: ForwardMode): Projected {
    return this.normed(super.project(x, mode), mode);
  }
}

/** One linear whose rows are those of q, then k, then v. */
export class FusedAttention extends AttentionBase {
  readonly oProj: Linear;
  readonly qkvProj: Linear;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super(config, layer);
    this.oProj = linearOf(weights, `${this.path}.o_proj`);
    this.qkvProj = linearOf(weights, `${this.path}.qkv_proj`);
  }

  protected override project(x: Tensor, mode: ForwardMode): Projected {
    const { numHeads, numKvHeads, headDim } = this.config;
    const [fused] = linear(x, [this.qkvProj], mode, `${this.path}.qkv_proj`);
    return this.byHeads(splitColumns(fused!, [numHeads * headDim, numKvHeads * headDim, numKvHeads * headDim]));
  }
}
