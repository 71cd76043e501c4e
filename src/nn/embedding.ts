import { noGrad } from "../autograd/tape.js";
import { cast } from "../ops/copy.js";
import { add, scale } from "../ops/elementwise.js";
import { embedding } from "../ops/embedding.js";
import { matmul, transpose } from "../ops/matmul.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import type { Delta, LoraPair } from "./adapter-part.js";
import { Adaptable, BASE_ONLY, byRange } from "./adapter-slot.js";
import { addDelta, gain, scaleColumns } from "./dora.js";
import type { ForwardMode } from "./linear.js";

/** A table of rows [vocab, d], in whatever dtype the checkpoint has. */
export class Embedding extends Adaptable {
  weight: Tensor;

  constructor(weight: Tensor) {
    super();
    this.weight = weight;
  }

  /** ids int32 [T] → float32 [T, d]. */
  forward(ids: Tensor, mode: ForwardMode): Tensor {
    const lookUp = ([ids]: readonly Tensor[], names: readonly string[]) => [this.#lookUp(ids!, names)];
    return byRange(mode.adapters ?? BASE_ONLY, [this.adapters], [ids], lookUp)[0]!;
  }

  #lookUp(ids: Tensor, names: readonly string[]): Tensor {
    const parts = this.adapters.of(names);
    const table = parts.find(({ weight }) => weight)?.weight ?? this.weight;
    let y = embedding(table, ids);
    const plain = y;
    for (const { pair, rows } of parts) {
      for (const delta of [pair?.delta(), rows?.delta(table)]) {
        if (!delta) continue;
        // A row of b a is the row of b, times a. PEFT drops nothing here.
        const change = scale(matmul(embedding(delta.b, ids), delta.a), delta.scale);
        y = add(y, pair?.magnitude ? this.#turned(table, plain, change, pair, delta) : change);
      }
    }
    return y;
  }

  /** What DoRA makes of `change`: it measures the columns of a table, as they are the rows of the matrix that PEFT means. */
  #turned(table: Tensor, plain: Tensor, change: Tensor, pair: LoraPair, delta: Delta): Tensor {
    const matrix = () => noGrad(() => scope(() => transpose(addDelta(cast(table, "float32"), delta))));
    const factors = pair.factors(table, () => gain(pair.magnitude!, matrix()));
    return add(scaleColumns(add(plain, change), factors), scale(plain, -1));
  }

  override *tensors(): Iterable<[string, Tensor]> {
    yield ["weight", this.weight];
  }

  override dispose(): void {
    super.dispose();
    this.weight.dispose();
  }
}
