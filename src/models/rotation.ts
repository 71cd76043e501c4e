/** The ropes of a model: their frequencies on the device, and the tables of a forward pass. */
import { ropeTable } from "../ops/rope.js";
import type { Device } from "../tensor/device.js";
import { Tensor } from "../tensor/tensor.js";
import type { Batch } from "./batch.js";
import { changesWithLength, halfOf, inverseFrequencies, type RopeParameters } from "./rope.js";

export class Rotation {
  /** Of ropes that do not change with the length of a sequence. */
  readonly #fixed: (Tensor | undefined)[];

  constructor(
    private readonly ropes: readonly RopeParameters[],
    private readonly device: Device,
  ) {
    this.#fixed = ropes.map((rope) => (changesWithLength(rope) ? undefined : this.#frequencies(rope, 0)));
  }

  /** Keys rotated in a sequence of at most this many tokens must be made again once it is longer; absent: never. */
  get restartAfter(): number | undefined {
    return this.ropes.find(({ type }) => type === "longrope")?.originalMaxPositions;
  }

  /** Whether a table depends on more than its positions. */
  get changesWithLength(): boolean {
    return this.ropes.some(changesWithLength);
  }

  /** One table a rope, a row a token; each sequence is rotated as it would be alone. */
  tables(batch: Batch): Tensor[] {
    return this.ropes.map((rope, i) => {
      const scaling = rope.attentionScaling;
      const fixed = this.#fixed[i];
      if (fixed) return ropeTable(batch.positions, fixed, { scaling });
      const table = Tensor.empty([batch.positions.size, 2 * halfOf(rope)], { device: this.device });
      let begin = 0;
      for (const { tokens, context } of batch.sequences) {
        const end = begin + tokens;
        const into = table.slice(begin, end);
        ropeTable(batch.positions.slice(begin, end), this.#frequencies(rope, context), { scaling, into });
        begin = end;
      }
      return table;
    });
  }

  dispose(): void {
    for (const tensor of this.#fixed) tensor?.dispose();
  }

  #frequencies(rope: RopeParameters, length: number): Tensor {
    const values = inverseFrequencies(rope, length);
    return Tensor.from(values, [values.length], { device: this.device });
  }
}
