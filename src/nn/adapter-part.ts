import { add, scale } from "../ops/elementwise.js";
import { embedding } from "../ops/embedding.js";
import { transpose } from "../ops/matmul.js";
import { Weight } from "../quant/weight.js";
import { Tensor } from "../tensor/tensor.js";

/** scale · b a: a change of a matrix [out, in] by a [r, in] and b [out, r]. An embedding [vocab, d] is such a matrix too. */
export interface Delta {
  a: Tensor;
  b: Tensor;
  scale: number;
  /** Probability of dropping an element of x before `a`; only while training. */
  dropout: number;
}

/** The matrices of LoRA in one module. It owns its tensors. */
export class LoraPair {
  /** float32 [r, in]; of an embedding PEFT's lora_embedding_B, [d, r]. */
  readonly a: Tensor;
  /** float32 [out, r]; of an embedding PEFT's lora_embedding_A, [r, vocab]. */
  readonly b: Tensor;
  /** alpha / r, or alpha / √r with rsLoRA. */
  readonly scale: number;
  readonly dropout: number;
  /** float32 [out], added to b's product before the scale; absent without lora_bias. */
  readonly bias: Tensor | undefined;
  /** Whether the tensors lie as an embedding's do. A tied head reads the embedding's own pair. */
  readonly transposed: boolean;
  /** DoRA: float32 [out], of an embedding [d]; the length of each row of W + scale · b a. */
  readonly magnitude: Tensor | undefined;
  #factors: { matrix: object; factors: Tensor } | undefined;

  constructor(a: Tensor, b: Tensor, scale: number, dropout = 0, bias?: Tensor, transposed = false, magnitude?: Tensor) {
    this.a = a;
    this.b = b;
    this.scale = scale;
    this.dropout = dropout;
    this.bias = bias;
    this.transposed = transposed;
    this.magnitude = magnitude;
  }

  /** Its tensors, all trained together. */
  get tensors(): readonly Tensor[] {
    return [this.a, this.b, ...(this.bias ? [this.bias] : []), ...(this.magnitude ? [this.magnitude] : [])];
  }

  /**
   * `compute`'s factors of DoRA, remembered while the pair is frozen and reads the same matrix: they need that whole matrix, and a
   * generation asks at every token.
   */
  factors(matrix: object, compute: () => Tensor): Tensor {
    if (this.magnitude?.requiresGrad || this.#factors?.matrix !== matrix) this.forget();
    if (this.magnitude?.requiresGrad) return compute();
    this.#factors ??= { matrix, factors: compute().keep() };
    return this.#factors.factors;
  }

  /** Frees what it remembers. */
  forget(): void {
    this.#factors?.factors.dispose();
    this.#factors = undefined;
  }

  delta(): Delta {
    const { scale: factor, dropout } = this;
    if (!this.transposed) return { a: this.a, b: this.b, scale: factor, dropout };
    return { a: transpose(this.a), b: transpose(this.b), scale: factor, dropout };
  }
}

/** Rows of a table that are trained alone (trainable_token_indices). It owns its tensors. */
export class TokenRows {
  readonly ids: readonly number[];
  /** float32 [n, d]: what stands in the place of rows `ids`. */
  readonly values: Tensor;
  /** int32 [n]. */
  readonly #index: Tensor;
  /** float32 [vocab, n], 1 at (ids[i], i). */
  readonly #places: Tensor;

  constructor(ids: readonly number[], vocab: number, values: Tensor) {
    const { device } = values;
    const places = new Float32Array(vocab * ids.length);
    for (const [i, id] of ids.entries()) places[id * ids.length + i] = 1;
    this.ids = ids;
    this.values = values;
    this.#index = Tensor.from(Int32Array.from(ids), [ids.length], { device }).keep();
    this.#places = Tensor.from(places, [vocab, ids.length], { device }).keep();
  }

  get tensors(): readonly Tensor[] {
    return [this.values, this.#index, this.#places];
  }

  /** What the rows are more than those of `table`. */
  delta(table: Tensor): Delta {
    const own = embedding(table, this.#index);
    return { a: add(this.values, scale(own, -1)), b: this.#places, scale: 1, dropout: 0 };
  }
}

/** What one adapter puts into one module; each field acts where it is present. */
export class AdapterPart {
  readonly pair: LoraPair | undefined;
  /** float32, read instead of the module's own (modules_to_save). */
  readonly weight: Tensor | undefined;
  /** float32 [out], read instead of the module's own (modules_to_save, bias). */
  readonly bias: Tensor | undefined;
  readonly rows: TokenRows | undefined;
  /** What the pair started from, taken away from the base: frozen, with a negative scale (PiSSA, OLoRA). */
  readonly offset: LoraPair | undefined;
  /** Whether a tied head does here what the same adapter does to the embedding. */
  readonly follows: boolean;
  #matrix: Weight | undefined;

  constructor({
    pair,
    weight,
    bias,
    rows,
    offset,
    follows = false,
  }: Partial<Pick<AdapterPart, "pair" | "weight" | "bias" | "rows" | "offset" | "follows">> = {}) {
    this.pair = pair;
    this.weight = weight;
    this.bias = bias;
    this.rows = rows;
    this.offset = offset;
    this.follows = follows;
  }

  /** `weight` as a linear reads it. */
  get matrix(): Weight | undefined {
    if (this.weight) this.#matrix ??= Weight.borrow(this.weight);
    return this.#matrix;
  }

  /** Whether a pair's delta is all there is, so that different rows may have different ones in one product. */
  get isPair(): boolean {
    return !this.weight && !this.bias && !this.rows && !this.offset && !this.pair?.magnitude;
  }

  get tensors(): readonly Tensor[] {
    const { pair, weight, bias, rows, offset } = this;
    return [
      ...(pair?.tensors ?? []),
      ...(offset?.tensors ?? []),
      ...(weight ? [weight] : []),
      ...(bias ? [bias] : []),
      ...(rows?.tensors ?? []),
    ];
  }

  dispose(): void {
    this.#matrix?.dispose();
    this.#matrix = undefined;
    this.pair?.forget();
    for (const tensor of this.tensors) tensor.dispose();
  }
}
