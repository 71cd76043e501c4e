/** Label of a position that is no target. */
export const IGNORE = -100;

/** Which end of a row that is too long stays. */
export type TruncationMode = "keep_start" | "keep_end";

/** Token ids of one sequence and, at the same places, the ids to learn (IGNORE elsewhere). Not shifted. */
export interface Example {
  inputIds: ArrayLike<number>;
  labels: ArrayLike<number>;
}

/**
 * Sequences laid end to end, as the device takes them: no padding, borders in `cuSeqlens`.
 * T tokens, n sequences.
 */
export interface PackedTokens {
  /** [T] */
  inputIds: Int32Array;
  /** [T], from 0 in each sequence. */
  positions: Int32Array;
  /** [T], shifted: the id that the token at t predicts, IGNORE where there is none (always at the last of a sequence). */
  labels: Int32Array;
  /** [n + 1], where each sequence begins, and T. */
  cuSeqlens: Int32Array;
  /** How many labels are targets. */
  targetTokens: number;
  /** Tokens of the longest row: what a padded batch of the same rows would be wide. A pack is one row. */
  width: number;
}

/** Labels of a sequence: its ids where every mask that is given has a 1. */
export function labelsFromMasks(inputIds: ArrayLike<number>, ...masks: (ArrayLike<number> | undefined)[]): Int32Array {
  return Int32Array.from(inputIds, (id, i) => (masks.every((mask) => mask === undefined || mask[i] === 1) ? id : IGNORE));
}

/** Targets of a sequence once its labels are shifted: its first token is never one. */
export function countTargets(labels: ArrayLike<number>): number {
  let n = 0;
  for (let i = 1; i < labels.length; i++) if (labels[i] !== IGNORE) n++;
  return n;
}

/** Cuts a list to a length at one end. */
export function truncate<T extends { slice(start?: number, end?: number): T; length: number }>(
  list: T,
  maxLength: number | null,
  mode: TruncationMode,
): T {
  if (maxLength === null || list.length <= maxLength) return list;
  return mode === "keep_start" ? list.slice(0, maxLength) : list.slice(list.length - maxLength);
}

/** Lays examples end to end. Empty ones leave no trace. `width`: where rows hold several examples; else that of the longest one. */
export function packTokens(
  examples: readonly Example[],
  width: number = Math.max(0, ...examples.map((e) => e.inputIds.length)),
): PackedTokens {
  const full = examples.filter((e) => e.inputIds.length > 0);
  const total = full.reduce((n, e) => n + e.inputIds.length, 0);
  const packed: PackedTokens = {
    inputIds: new Int32Array(total),
    positions: new Int32Array(total),
    labels: new Int32Array(total).fill(IGNORE),
    cuSeqlens: new Int32Array(full.length + 1),
    targetTokens: 0,
    width,
  };
  let at = 0;
  for (const [n, { inputIds, labels }] of full.entries()) {
    const length = inputIds.length;
    packed.inputIds.set(inputIds, at);
    for (let i = 0; i < length; i++) {
      packed.positions[at + i] = i;
      if (i + 1 < length) packed.labels[at + i] = labels[i + 1]!;
    }
    packed.targetTokens += countTargets(labels);
    at += length;
    packed.cuSeqlens[n + 1] = at;
  }
  return packed;
}

/** Rows of equal width; `values` to the right of a row's own are `fill`. */
export function padRight(rows: readonly ArrayLike<number>[], fill: number, multipleOf = 1): number[][] {
  const longest = Math.max(0, ...rows.map((row) => row.length));
  const width = Math.ceil(longest / multipleOf) * multipleOf;
  return rows.map((row) => Array.from({ length: width }, (_, i) => row[i] ?? fill));
}

/** Padded rows for tools that want them: ids, labels, and a mask of 1 for what is no padding, each [rows, width]. */
export function collatePadded(
  examples: readonly Example[],
  padId: number,
  multipleOf = 1,
): { inputIds: number[][]; labels: number[][]; attentionMask: number[][] } {
  return {
    inputIds: padRight(
      examples.map((e) => e.inputIds),
      padId,
      multipleOf,
    ),
    labels: padRight(
      examples.map((e) => e.labels),
      IGNORE,
      multipleOf,
    ),
    attentionMask: padRight(
      examples.map((e) => new Uint8Array(e.inputIds.length).fill(1)),
      0,
      multipleOf,
    ),
  };
}

/** A prompt with one answer. */
export interface PromptCompletion {
  promptIds: readonly number[];
  completionIds: readonly number[];
}

/**
 * Rows of prompt and completion, cut to a length, with the completion's tokens as labels. For preferences: the rows of all
 * chosen answers, then those of all rejected ones.
 */
export function completionExamples(rows: readonly PromptCompletion[], maxLength: number | null, mode: TruncationMode): Example[] {
  return rows.map(({ promptIds, completionIds }) => ({
    inputIds: truncate([...promptIds, ...completionIds], maxLength, mode),
    labels: truncate([...promptIds.map(() => IGNORE), ...completionIds], maxLength, mode),
  }));
}
