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

/** Of packed sequences: where each begins and the last ends, and the place of each token in its sequence, whose first has place `starts[i]`. */
export function layoutOf(sequences: readonly (readonly number[])[], starts: readonly number[] = []) {
  const bounds = [0];
  for (const ids of sequences) bounds.push(bounds.at(-1)! + ids.length);
  const positions = sequences.flatMap((ids, i) => ids.map((_, t) => (starts[i] ?? 0) + t));
  return { bounds, positions };
}

/** Packs whole sequences of token ids. */
export function packSequences(sequences: readonly (readonly number[])[], device: Device): Batch {
  const { bounds, positions } = layoutOf(sequences);
  const int32 = (values: readonly number[]) => Tensor.from(Int32Array.from(values), [values.length], { dtype: "int32", device });
  return {
    inputIds: int32(sequences.flat()),
    positions: int32(positions),
    cuSeqlens: int32(bounds),
    maxSeqlen: Math.max(...sequences.map((ids) => ids.length)),
    sequences: sequences.map(({ length }) => ({ tokens: length, context: length })),
  };
}
