import type { TensorSpec } from "../models/layout.js";
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

/** The module that a tensor of a checkpoint belongs to. */
export const moduleOf = (tensor: string): string => tensor.replace(/\.(weight|bias)$/, "");

/** The modules that tensors of a checkpoint belong to, and the folders of the tree above them. */
export function shapeOfSpecs(specs: readonly TensorSpec[], modelType: string, tied: boolean): ModelShape {
  const modules = new Map<string, ModuleShape>();
  const kinds: Readonly<Record<string, string>> = { embedding: "Embedding", norm: "RMSNorm" };
  for (const { name, shape, kind } of specs) {
    const path = moduleOf(name);
    const parts = path.split(".");
    for (let i = 1; i < parts.length; i++) {
      const above = parts.slice(0, i).join(".");
      if (!modules.has(above)) modules.set(above, { name: above, kind: "Module", tensors: {} });
    }
    const former = modules.get(path);
    const tensors = { ...former?.tensors, [name.slice(path.length + 1)]: shape };
    modules.set(path, { name: path, kind: former?.kind ?? kinds[kind] ?? "Linear", tensors });
  }
  const embedding = specs.find(({ kind }) => kind === "embedding");
  const head = specs.find(({ kind }) => kind === "head");
  const outputEmbedding = head ? moduleOf(head.name) : tied ? "lm_head" : null;
  if (!head && tied) modules.set("lm_head", { name: "lm_head", kind: "Linear", tensors: { weight: embedding!.shape } });
  return {
    modules: [...modules.values()],
    modelType,
    outputEmbedding,
    inputEmbedding: embedding ? moduleOf(embedding.name) : null,
    tied,
  };
}
