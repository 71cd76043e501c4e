import { LowrankError } from "../errors.js";
import { Adaptable, type AdapterSelection, namesOf } from "./adapter-slot.js";
import { Embedding } from "./embedding.js";
import { Linear } from "./linear.js";
import type { Module } from "./module.js";
import { RMSNorm } from "./rms-norm.js";

/**
 * Remembers what the modules of a model hold for a selection. The result throws DISPOSED once an adapter of it was deleted or replaced,
 * or weights were (merging does that): a generation in several passes calls it before each, so that it never changes to other values.
 */
export function watchModules(model: Module, selection: AdapterSelection): () => void {
  const names = namesOf(selection);
  const held = adaptables(model).map(([, module]) => {
    return { module, weight: weightOf(module), parts: names.map((name) => module.adapters.parts.get(name)) };
  });
  return () => {
    for (const { module, weight, parts } of held) {
      const changed = names.find((name, i) => module.adapters.parts.get(name) !== parts[i]);
      if (changed !== undefined) throw gone(`The adapter '${changed}' was deleted or replaced`);
      if (weightOf(module) !== weight) throw gone("The weights of the model were merged, unmerged or replaced");
    }
  };
}

/** The modules with room for adapters, with their paths. */
export function adaptables(model: Module): [path: string, module: Adaptable][] {
  return [...model.modules()].filter((entry): entry is [string, Adaptable] => entry[1] instanceof Adaptable);
}

const weightOf = (module: Adaptable) =>
  module instanceof Linear || module instanceof Embedding || module instanceof RMSNorm ? module.weight : undefined;

const gone = (what: string): LowrankError =>
  new LowrankError("DISPOSED", `${what} while a generation used it`, {
    hint: "Let generations end before that, or abort them; then generate again.",
  });
