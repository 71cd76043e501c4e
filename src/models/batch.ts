import type { Device } from "../tensor/device.js";
import { Tensor } from "../tensor/tensor.js";

/** Packed token sequences on a device: no padding, T tokens in all. */
export interface Batch {
  /** int32 [T]. */
  inputIds: Tensor;
  /** int32 [T]: place of each token in its sequence. */
  positions: Tensor;
  /** int32 [sequences + 1]: sequence i owns tokens cuSeqlens[i] to cuSeqlens[i + 1]. */
  cuSeqlens: Tensor;
  /** Length of the longest sequence. */
  maxSeqlen: number;
}

/** Packs sequences of token ids; `starts[i]` is the position of the first token of sequence i (default 0). */
export function packSequences(sequences: readonly (readonly number[])[], device: Device, starts?: readonly number[]): Batch {
  const bounds = [0];
  for (const ids of sequences) bounds.push(bounds.at(-1)! + ids.length);
  const total = bounds.at(-1)!;
  const int32 = (values: readonly number[]) => Tensor.from(Int32Array.from(values), [values.length], { dtype: "int32", device });
  const positions = new Int32Array(total);
  sequences.forEach((ids, i) => {
    for (let t = 0; t < ids.length; t++) positions[bounds[i]! + t] = (starts?.[i] ?? 0) + t;
  });
  return {
    inputIds: int32(sequences.flat()),
    positions: Tensor.from(positions, [total], { dtype: "int32", device }),
    cuSeqlens: int32(bounds),
    maxSeqlen: Math.max(...sequences.map((ids) => ids.length)),
  };
}
