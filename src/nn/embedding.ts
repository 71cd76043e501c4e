import { add, scale } from "../ops/elementwise.js";
import { embedding } from "../ops/embedding.js";
import { matmul } from "../ops/matmul.js";
import type { Tensor } from "../tensor/tensor.js";
import { Adaptable, BASE_ONLY, byRange } from "./adapter-slot.js";
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
    for (const { pair, rows } of parts) {
      for (const delta of [pair?.delta(), rows?.delta(table)]) {
        // A row of b a is the row of b, times a. PEFT drops nothing here.
        if (delta) y = add(y, scale(matmul(embedding(delta.b, ids), delta.a), delta.scale));
      }
    }
    return y;
  }

  override *tensors(): Iterable<[string, Tensor]> {
    yield ["weight", this.weight];
  }

  override dispose(): void {
    super.dispose();
    this.weight.dispose();
  }
}
