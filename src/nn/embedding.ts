import { noGrad } from "../autograd/tape.js";
import { add, scale } from "../ops/elementwise.js";
import { embedding } from "../ops/embedding.js";
import { matmul } from "../ops/matmul.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import type { Delta, LoraPair } from "./adapter-part.js";
import { Adaptable, BASE_ONLY, byRange } from "./adapter-slot.js";
import { directedTable, gain, scaleColumns } from "./dora.js";
import type { ForwardMode } from "./linear.js";

/** What embeddings are multiplied with, in the two kinds of math: some models round this number as they do their activations. */
export interface EmbeddingScale {
  float32: number;
  bfloat16: number;
}

/** A table of rows [vocab, d], in whatever dtype the checkpoint has. */
export class Embedding extends Adaptable {
  weight: Tensor;
  readonly scale: EmbeddingScale;

  constructor(weight: Tensor, scale: EmbeddingScale = { float32: 1, bfloat16: 1 }) {
    super();
    this.weight = weight;
    this.scale = scale;
  }

  /** ids int32 [T] → float32 [T, d]. */
  forward(ids: Tensor, mode: ForwardMode): Tensor {
    const factor = mode.bf16 ? this.scale.bfloat16 : this.scale.float32;
    const lookUp = ([ids]: readonly Tensor[], names: readonly string[]) => [this.#lookUp(ids!, names, factor)];
    return byRange(mode.adapters ?? BASE_ONLY, [this.adapters], [ids], lookUp)[0]!;
  }

  /** Of the changed table, so that an adapter's part is multiplied as well. */
  #lookUp(ids: Tensor, names: readonly string[], factor: number): Tensor {
    const parts = this.adapters.of(names);
    const table = parts.find(({ weight }) => weight)?.weight ?? this.weight;
    // A row of b a is the row of b, times a. PEFT drops nothing here.
    const change = ({ a, b, scale: own }: Delta) => scale(matmul(embedding(b, ids), a), own * factor);
    let y = embedding(table, ids, factor);
    for (const { rows } of parts) if (rows) y = add(y, change(rows.delta(table)));
    for (const { pair } of parts) {
      if (!pair) continue;
      const delta = pair.delta();
      y = add(y, change(delta));
      if (pair.magnitude) y = scaleColumns(y, this.#factors(table, pair, delta));
    }
    return y;
  }

  #factors(table: Tensor, pair: LoraPair, delta: Delta): Tensor {
    const matrix = () => noGrad(() => scope(() => directedTable(table, delta)));
    return pair.factors(table, () => gain(pair.magnitude!, matrix()));
  }

  override *tensors(): Iterable<[string, Tensor]> {
    yield ["weight", this.weight];
  }

  override dispose(): void {
    super.dispose();
    this.weight.dispose();
  }
}
