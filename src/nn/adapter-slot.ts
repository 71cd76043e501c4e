import { copyInto } from "../ops/copy.js";
import { Tensor } from "../tensor/tensor.js";
import type { AdapterPart } from "./adapter-part.js";
import { Module } from "./module.js";

/**
 * Which adapters act in a forward pass. `names`: all of them on every row, their deltas summed. `rows`: consecutive ranges of rows
 * with at most one adapter each (a mixed batch; null is the base alone).
 */
export type AdapterSelection =
  | { names: readonly string[] }
  | { rows: readonly { begin: number; end: number; name: string | null }[] };

/** The base alone. */
export const BASE_ONLY: AdapterSelection = { names: [] };

/** Names of all adapters of a selection. */
export function namesOf(selection: AdapterSelection): readonly string[] {
  return "names" in selection ? selection.names : selection.rows.flatMap(({ name }) => name ?? []);
}

/** The adapters that a module holds by name. Which of them act is the caller's choice, call by call: see {@link AdapterSelection}. */
export class AdapterSlot {
  readonly parts = new Map<string, AdapterPart>();

  /** The parts of these adapters here. */
  of(names: readonly string[]): AdapterPart[] {
    return this.parts.size === 0 ? [] : names.flatMap((name) => this.parts.get(name) ?? []);
  }
}

/** A module with room for adapters. Paths and weights stay what they are whatever adapters come and go. */
export abstract class Adaptable extends Module {
  readonly adapters = new AdapterSlot();

  override dispose(): void {
    for (const part of this.adapters.parts.values()) part.dispose();
    this.adapters.parts.clear();
  }
}

/**
 * Runs `body` on each range of rows with the names of the adapters that act there, and joins what comes out along the rows: once on
 * everything where the same act on all rows, or where `slots` hold nothing of those that act. Without gradients for several ranges.
 */
export function byRange(
  selection: AdapterSelection,
  slots: readonly AdapterSlot[],
  inputs: readonly Tensor[],
  body: (inputs: readonly Tensor[], names: readonly string[]) => Tensor[],
): Tensor[] {
  if ("names" in selection) return body(inputs, selection.names);
  const rows = inputs[0]?.shape[0] ?? 0;
  if (slots.every((slot) => slot.of(namesOf(selection)).length === 0)) return body(inputs, []);
  const parts = allRows(selection.rows, rows).map(({ begin, end, name }) => {
    const sliced = inputs.map((input) => input.slice(begin, end));
    return { begin, end, ys: body(sliced, name === null ? [] : [name]) };
  });
  return (parts[0]?.ys ?? []).map((first, i) => {
    const y = Tensor.empty([rows, ...first.shape.slice(1)], { dtype: first.dtype, device: first.device });
    for (const { begin, end, ys } of parts) copyInto(y.slice(begin, end), ys[i]!);
    return y;
  });
}

/** The ranges, and between them those that no adapter acts on. */
function allRows(ranges: readonly { begin: number; end: number; name: string | null }[], rows: number) {
  const all: { begin: number; end: number; name: string | null }[] = [];
  let next = 0;
  for (const range of ranges) {
    if (range.begin > next) all.push({ begin: next, end: range.begin, name: null });
    if (range.end > range.begin) all.push(range);
    next = range.end;
  }
  if (next < rows) all.push({ begin: next, end: rows, name: null });
  return all;
}
