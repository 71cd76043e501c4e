import type { Trace, TracedWeight } from "./trace.js";

export interface Layer {
  weight: TracedWeight;
  ranks: number;
  residual: boolean;
  /** y is written. */
  kept: boolean;
}
export interface Group {
  rows: number;
  k: number;
  hasDx: boolean;
  accumulate: boolean;
  dropout: boolean;
  /** Gradients of adapters are wanted. */
  trains: boolean;
  /** Two layers end as a gated linear unit. */
  gated: boolean;
  layers: readonly Layer[];
}

/** A linear group as its words tell it (`LinearGroupWords` of native/surface.ts). */
export function groupOf(words: Float64Array, trace: Trace): Group {
  const word = (i: number) => words[i]!;
  const count = word(9);
  let at = 10;
  const layers: Layer[] = [];
  let trains = false;
  let rows = trace.tensor(word(0))?.shape[0] ?? 0;
  for (let i = 0; i < count; i++) {
    const weight = trace.weight(word(at));
    rows ||= trace.tensor(word(at + 2))!.shape[0]!;
    const segments = word(at + 5);
    let ranks = 0;
    for (let s = 0; s < segments; s++) {
      const [, , a, , da, db] = words.subarray(at + 6 + 7 * s);
      ranks = Math.max(ranks, trace.tensor(a)!.shape[0]!);
      trains ||= da !== 0 || db !== 0;
    }
    layers.push({ weight, ranks, residual: word(at + 4) !== 0, kept: word(at + 2) !== 0 });
    at += 6 + 7 * segments;
  }
  return {
    rows,
    k: layers[0]!.weight.k,
    hasDx: word(1) !== 0,
    accumulate: word(2) !== 0,
    dropout: word(4) > 0,
    trains,
    gated: word(7) !== 0,
    layers,
  };
}
