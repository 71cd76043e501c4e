import { Weight } from "../quant/weight.js";
import type { Tensor } from "../tensor/tensor.js";

/** A LoRA pair in a linear. It owns its tensors. */
export class LoraPair {
  /** float32 [r, in]. */
  readonly a: Tensor;
  /** float32 [out, r]. */
  readonly b: Tensor;
  /** alpha / r, or alpha / √r with rsLoRA. */
  readonly scale: number;
  /** Probability of dropping an element of x before `a`; only while training. */
  readonly dropout: number;
  /** float32 [out], added to b's product before the scale; absent without lora_bias. */
  readonly bias: Tensor | undefined;
  #weights: { a: Weight; b: Weight } | undefined;

  constructor(a: Tensor, b: Tensor, scale: number, dropout = 0, bias?: Tensor) {
    this.a = a;
    this.b = b;
    this.scale = scale;
    this.dropout = dropout;
    this.bias = bias;
  }

  /** Its tensors, all trained together. */
  get tensors(): readonly Tensor[] {
    return this.bias ? [this.a, this.b, this.bias] : [this.a, this.b];
  }

  /** The pair as two weights, for composing its delta of plain linears. */
  get weights(): { a: Weight; b: Weight } {
    this.#weights ??= { a: Weight.borrow(this.a), b: Weight.borrow(this.b) };
    return this.#weights;
  }

  dispose(): void {
    this.#weights?.a.dispose();
    this.#weights?.b.dispose();
    this.#weights = undefined;
    for (const tensor of this.tensors) tensor.dispose();
  }
}

/** The adapters that a linear holds by name. Which of them act is the caller's choice, call by call: see {@link AdapterSelection}. */
export class AdapterSlot {
  readonly pairs = new Map<string, LoraPair>();
}

/**
 * Which adapters act in a forward pass. `names`: all of them on every row, their deltas summed. `rows`: consecutive ranges of rows
 * with at most one adapter each (a mixed batch; null is the base alone).
 */
export type AdapterSelection =
  | { names: readonly string[] }
  | { rows: readonly { begin: number; end: number; name: string | null }[] };

/** The base alone. */
export const BASE_ONLY: AdapterSelection = { names: [] };
