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
  /**
   * The same on the host: how many tokens each sequence has here, and how many in all, with those that a cache holds and those of its
   * prompt that are still to come: what a rope that changes with the length goes by.
   */
  sequences: readonly { tokens: number; context: number }[];
}

/** Packs whole sequences of token ids. */
export function packSequences(sequences: readonly (readonly number[])[], device: Device): Batch {
  const bounds = [0];
  for (const ids of sequences) bounds.push(bounds.at(-1)! + ids.length);
  const total = bounds.at(-1)!;
  const int32 = (values: readonly number[]) => Tensor.from(Int32Array.from(values), [values.length], { dtype: "int32", device });
  const positions = new Int32Array(total);
  sequences.forEach((ids, i) => {
    for (let t = 0; t < ids.length; t++) positions[bounds[i]! + t] = t;
  });
  return {
    inputIds: int32(sequences.flat()),
    positions: Tensor.from(positions, [total], { dtype: "int32", device }),
    cuSeqlens: int32(bounds),
    maxSeqlen: Math.max(...sequences.map((ids) => ids.length)),
    sequences: sequences.map(({ length }) => ({ tokens: length, context: length })),
  };
}
