import { LowrankError } from "../errors.js";
import type { AdapterSelection } from "./adapter-slot.js";
import { Linear } from "./linear.js";
import type { Module } from "./module.js";

/**
 * Remembers what the linears of a model hold for a selection. The result throws DISPOSED once an adapter of it was deleted or replaced,
 * or weights were (merging does that): a generation in several passes calls it before each, so that it never changes to other values.
 */
export function watchLinears(model: Module, selection: AdapterSelection): () => void {
  const names = "names" in selection ? selection.names : selection.rows.flatMap(({ name }) => name ?? []);
  const held = [...model.modules()].flatMap(([, linear]) =>
    linear instanceof Linear
      ? [{ linear, weight: linear.weight, pairs: names.map((name) => linear.adapters.pairs.get(name)) }]
      : [],
  );
  return () => {
    for (const { linear, weight, pairs } of held) {
      const changed = names.find((name, i) => linear.adapters.pairs.get(name) !== pairs[i]);
      if (changed !== undefined) throw gone(`The adapter '${changed}' was deleted or replaced`);
      if (linear.weight !== weight) throw gone("The weights of the model were merged, unmerged or replaced");
    }
  };
}

const gone = (what: string): LowrankError =>
  new LowrankError("DISPOSED", `${what} while a generation used it`, {
    hint: "Let generations end before that, or abort them; then generate again.",
  });
