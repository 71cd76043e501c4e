import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import type { Module } from "../nn/module.js";
import type { BaseModel } from "./plan.js";
import type { ModelModules, ModuleInfo } from "./targets.js";

/** A module with the shapes of its own tensors. */
export interface ModuleShape extends ModuleInfo {
  readonly tensors: Readonly<Record<string, readonly number[]>>;
}

/** What an adapter's plan depends on of a model. */
export interface ModelShape extends ModelModules {
  readonly modules: readonly ModuleShape[];
  /** Name of the embedding of tokens. */
  readonly inputEmbedding: string | null;
  /** Whether the output head reads the embedding. */
  readonly tied: boolean;
}

export function shapeOf(model: BaseModel): ModelShape {
  const named = [...model.modules()].filter(([name]) => name !== "");
  const modules = named.map(([name, module]) => ({ name, kind: kindOf(module), tensors: tensorsOf(module) }));
  return {
    modules,
    modelType: model.config.modelType,
    outputEmbedding: named.find(([, module]) => module === model.lmHead)?.[0] ?? null,
    inputEmbedding: modules.find(({ kind }) => kind === "Embedding")?.name ?? null,
    tied: model.lmHead.weight.borrowed,
  };
}

const kindOf = (module: Module) =>
  module instanceof Linear ? "Linear" : module instanceof Embedding ? "Embedding" : module.constructor.name;

function tensorsOf(module: Module): Record<string, readonly number[]> {
  const tensors = Object.fromEntries([...module.tensors()].map(([name, { shape }]) => [name, shape]));
  // A 4-bit matrix is no tensor of its module.
  if (module instanceof Linear) tensors.weight = [module.weight.outFeatures, module.weight.inFeatures];
  return tensors;
}
