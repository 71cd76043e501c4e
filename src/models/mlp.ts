/** Gated MLPs (path `mlp`): down(activation(gate(x)) · up(x)). */
import { type ForwardMode, gated, type Linear, linear } from "../nn/linear.js";
import { Module } from "../nn/module.js";
import { splitColumns } from "../ops/columns.js";
import { glu } from "../ops/glu.js";
import type { Tensor } from "../tensor/tensor.js";
import type { DecoderConfig } from "./config.js";
import { linearOf } from "./from-weights.js";
import type { LayerContext } from "./layer-context.js";
import type { ModelWeights } from "./loader.js";

export abstract class MlpBase extends Module {
  abstract readonly downProj: Linear;
  protected readonly path: string;

  constructor(
    protected readonly config: DecoderConfig,
    layer: number,
  ) {
    super();
    this.path = `model.layers.${layer}.mlp`;
  }

  /** activation(gate(x)) · up(x). */
  protected abstract gated(x: Tensor, mode: ForwardMode): Tensor;

  /** x [T, hidden] → the same shape; plus `residual`, of that shape too. */
  forward(x: Tensor, { mode }: LayerContext, residual?: Tensor): Tensor {
    return linear(this.gated(x, mode), [this.downProj], mode, `${this.path}.down_proj`, residual)[0]!;
  }
}

/** A linear each for gate and up. */
export class Mlp extends MlpBase {
  readonly gateProj: Linear;
  readonly upProj: Linear;
  readonly downProj: Linear;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super(config, layer);
    this.gateProj = linearOf(weights, `${this.path}.gate_proj`);
    this.upProj = linearOf(weights, `${this.path}.up_proj`);
    this.downProj = linearOf(weights, `${this.path}.down_proj`);
  }

  protected override gated(x: Tensor, mode: ForwardMode): Tensor {
    return gated(x, this.gateProj, this.upProj, this.config.activation, mode, `${this.path}.gate_up`);
  }
}

/** One linear whose rows are those of gate, then up. */
export class FusedMlp extends MlpBase {
  readonly gateUpProj: Linear;
  readonly downProj: Linear;

  constructor(config: DecoderConfig, layer: number, weights: ModelWeights) {
    super(config, layer);
    this.gateUpProj = linearOf(weights, `${this.path}.gate_up_proj`);
    this.downProj = linearOf(weights, `${this.path}.down_proj`);
  }

  protected override gated(x: Tensor, mode: ForwardMode): Tensor {
    const { intermediateSize, activation } = this.config;
    const [fused] = linear(x, [this.gateUpProj], mode, `${this.path}.gate_up_proj`);
    const [gate, up] = splitColumns(fused!, [intermediateSize, intermediateSize]);
    return glu(gate!, up!, activation);
  }
}
