import { LowrankError } from "../errors.js";
import { withinTime } from "../io/time-limit.js";
import type { AdapterSelection } from "../nn/adapter-slot.js";
import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import type { Module } from "../nn/module.js";
import type { Device } from "../tensor/device.js";
import type { LoraConfig } from "./config.js";
import { type ModelModules, resolveTargets } from "./targets.js";

/** What an adapter needs to know of the model it goes on. */
export interface BaseModel extends Module {
  readonly config: { readonly modelType: string };
  readonly device: Device;
  /** Folder or id the model came from. */
  readonly nameOrPath: string;
  /** Names the content of the checkpoint its weights come from; null where there is none. */
  baseHash(): Promise<string | null>;
  /** Called when an adapter became part of the weights. */
  weightsChanged(): void;
  /** The output head, which "all-linear" leaves out. */
  readonly lmHead: Module;
  /** Adapters of forward passes that name none. */
  adapters: AdapterSelection;
}

/** The prefix of every key in adapter_model.safetensors. */
const PREFIX = "base_model.model.";

export interface PlannedTensor {
  /** Key in adapter_model.safetensors. */
  key: string;
  shape: readonly number[];
  /** What initialisation does with it. */
  role: "lora_A" | "lora_B" | "lora_bias" | "magnitude" | "embedding_A" | "embedding_B" | "saved_copy" | "token_rows";
}

/** One LoRA pair: which linear, and the keys of its tensors. */
export interface PlannedPair {
  module: string;
  a: string;
  b: string;
  /** Only with lora_bias. */
  bias: string | undefined;
  rank: number;
  scale: number;
}

/** Everything an adapter consists of, made from its configuration and the model alone: created, loaded, saved and counted by it. */
export interface AdapterPlan {
  tensors: readonly PlannedTensor[];
  pairs: readonly PlannedPair[];
  /** target_modules as a saved configuration lists them. */
  targetModules: string[] | string;
}

/** The model as target matching sees it. */
export function modelModules(model: BaseModel): ModelModules {
  const modules = [...model.modules()]
    .filter(([name]) => name !== "")
    .map(([name, module]) => ({
      name,
      kind: module instanceof Linear ? "Linear" : module instanceof Embedding ? "Embedding" : module.constructor.name,
    }));
  const head = [...model.modules()].find(([, module]) => module === model.lmHead);
  return { modules, modelType: model.config.modelType, outputEmbedding: head?.[0] ?? null };
}

/**
 * Throws INVALID_CONFIG or ADAPTER_MISMATCH, with every mistake listed, when the configuration does not fit the model. `source` is what
 * errors call the configuration: its file, where there is one.
 */
export function planAdapter(model: BaseModel, config: LoraConfig, source = "the LoRA configuration"): AdapterPlan {
  for (const [key, entries] of Object.entries({
    target_modules: config.targetModules,
    exclude_modules: config.excludeModules,
    modules_to_save: config.modulesToSave,
  }))
    if (Array.isArray(entries) && entries.length > MOST_ENTRIES)
      throw new LowrankError("INVALID_CONFIG", `${source}: ${key} has ${entries.length} entries, more than ${MOST_ENTRIES}`);
  // Patterns may backtrack without end.
  return withinTime(
    PATTERN_MS,
    () => plan(model, config, source),
    () => {
      return new LowrankError("INVALID_CONFIG", `${source}: its patterns were not matched within ${PATTERN_MS} ms`, {
        hint: "Name the modules as a list, or simplify the regular expressions of target_modules, exclude_modules, rank_pattern and alpha_pattern.",
      });
    },
  );
}

const PATTERN_MS = 400;
/** Each is compared with every module. */
const MOST_ENTRIES = 10_000;

function plan(model: BaseModel, config: LoraConfig, source: string): AdapterPlan {
  const selection = resolveTargets(modelModules(model), config, source);
  const modules = new Map(model.modules());
  const tensors: PlannedTensor[] = [];
  const pairs: PlannedPair[] = [];
  for (const name of selection.targeted) {
    const module = modules.get(name);
    const rank = config.rankOf(name);
    const base = `${PREFIX}${name}`;
    if (module instanceof Linear) {
      const { inFeatures, outFeatures } = module.weight;
      const pair = {
        module: name,
        a: `${base}.lora_A.weight`,
        b: `${base}.lora_B.weight`,
        bias: config.loraBias ? `${base}.lora_B.bias` : undefined,
        rank,
        scale: config.scalingOf(name),
      };
      pairs.push(pair);
      tensors.push(
        { key: pair.a, shape: [rank, inFeatures], role: "lora_A" },
        { key: pair.b, shape: [outFeatures, rank], role: "lora_B" },
      );
      if (pair.bias !== undefined) tensors.push({ key: pair.bias, shape: [outFeatures], role: "lora_bias" });
      if (config.useDora) tensors.push({ key: `${base}.lora_magnitude_vector`, shape: [outFeatures], role: "magnitude" });
    } else if (module instanceof Embedding) {
      const [vocab = 0, d = 0] = module.weight.shape;
      tensors.push(
        { key: `${base}.lora_embedding_A`, shape: [rank, vocab], role: "embedding_A" },
        { key: `${base}.lora_embedding_B`, shape: [d, rank], role: "embedding_B" },
      );
    }
  }
  for (const name of selection.modulesToSave) {
    const module = modules.get(name);
    if (module instanceof Linear)
      tensors.push({
        key: `${PREFIX}${name}.weight`,
        shape: [module.weight.outFeatures, module.weight.inFeatures],
        role: "saved_copy",
      });
    for (const [own, tensor] of module instanceof Linear ? [] : (module?.tensors() ?? [])) {
      tensors.push({ key: `${PREFIX}${name}.${own}`, shape: tensor.shape, role: "saved_copy" });
    }
  }
  tensors.push(...tokenRows(modules, config));
  return { tensors, pairs, targetModules: selection.targetModules };
}

function tokenRows(modules: ReadonlyMap<string, Module>, { trainableTokenIndices: indices }: LoraConfig): PlannedTensor[] {
  if (indices === null) return [];
  const byModule = Array.isArray(indices) ? { embed_tokens: indices } : indices;
  return Object.entries(byModule).flatMap(([suffix, ids]) =>
    [...modules].flatMap(([name, module]): PlannedTensor[] => {
      if (!(module instanceof Embedding) || (name !== suffix && !name.endsWith(`.${suffix}`))) return [];
      const [vocab = 0, d = 0] = module.weight.shape;
      const outside = ids.filter((id: number) => !Number.isInteger(id) || id < 0 || id >= vocab);
      if (outside.length > 0) {
        throw new LowrankError(
          "INVALID_CONFIG",
          `trainable_token_indices: ${outside.join(", ")} do not lie in the vocabulary of ${vocab} tokens`,
        );
      }
      return [{ key: `${PREFIX}${name}.token_adapter.trainable_tokens_delta`, shape: [ids.length, d], role: "token_rows" }];
    }),
  );
}

/** Elements of the tensors that are there to be trained. */
export function countParameters(plan: AdapterPlan): number {
  return plan.tensors.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);
}
