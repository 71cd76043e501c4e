/** Loading a model's folder: config, generation config, weights. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { type GenerationConfig, readGenerationConfig } from "../generate/options.js";
import { openCheckpoint } from "../io/checkpoint.js";
import { lazyCheckpointHash } from "../io/checkpoint-hash.js";
import { type HubProgress, type ResolveOptions, resolveModel } from "../io/hub.js";
import { pathInside } from "../io/input.js";
import { readJsonFile } from "../io/json.js";
import { Keys, noteUnread, type OnNote } from "../notes.js";
import type { QuantType } from "../quant/codes.js";
import { type Device, getDevice } from "../tensor/device.js";
import { AutoTokenizer, type Tokenizer } from "../text/tokenizer.js";
import type { CausalLM, ModelParts } from "./causal-lm.js";
import { readConfigFile } from "./config-reader.js";
import { EMBEDDED_MODEL, embeddedModelFolder } from "./embedded.js";
import { loadWeights } from "./loader.js";
import { planLoading } from "./plan.js";
import { type ResolvedConfig, resolveConfig } from "./registry.js";

/** How products are computed: "float32"; "bfloat16", operands rounded to it; "auto", bfloat16 where the device multiplies it natively. */
export type MathDType = "auto" | "float32" | "bfloat16";

export type LoadProgress = ({ phase: "download" } & HubProgress) | { phase: "load"; done: number; total: number };

export interface FromPretrainedOptions extends Omit<ResolveOptions, "onProgress"> {
  /** Default "cpu". */
  device?: string | Device;
  /** The most bytes that device takes from the system from now on, for whatever it holds ({@link Device.memoryBudget}). */
  memoryBudget?: number;
  dtype?: MathDType;
  /** Quantise the linears to 4 bits while they stream from disk; a checkpoint that is 4-bit already is used as it is. */
  loadIn4bit?: boolean;
  /** Default "nf4". */
  bnb4bitQuantType?: QuantType;
  /** Quantise the statistics too (default true): 4.13 instead of 4.5 bits a weight. */
  bnb4bitUseDoubleQuant?: boolean;
  /** Weights that share one scale: 64 (default) to 4096, a power of two. */
  blocksize?: number;
  onProgress?: (progress: LoadProgress) => void;
  /** Told what in the model's files, and its tokenizer's, has no effect here. Default: a process warning. */
  onNote?: OnNote;
}

/** Loads a folder, a Hub id, or `lowrank/tiny`. Nothing stays in memory when it fails. */
export async function loadPretrained(idOrPath: string, options: FromPretrainedOptions = {}): Promise<CausalLM> {
  const device = typeof options.device === "object" ? options.device : getDevice(options.device ?? "cpu");
  if (options.memoryBudget !== undefined) device.memoryBudget = options.memoryBudget;
  const { onProgress, onNote, signal } = options;
  const folder = await resolveFolder(idOrPath, options);
  const resolved = resolveConfig(await readConfigFile(folder));
  const { family, config } = resolved;
  const generationConfig = await readGeneration(folder, resolved, onNote);
  const bf16 = usesBf16(options.dtype ?? "auto", device);
  const checkpoint = await openCheckpoint(folder);
  try {
    const checkpointHash = await lazyCheckpointHash(checkpoint);
    const specs = family.weights.tensors(config);
    const weights = await loadWeights(checkpoint, planLoading(checkpoint, specs, family.weights.ignored), {
      device,
      round: bf16,
      quantize: options.loadIn4bit ? quantizeOptions(options) : undefined,
      signal,
      onProgress: onProgress && ((progress) => onProgress({ phase: "load", ...progress })),
    });
    return construct(family.model, {
      config,
      weights,
      device,
      bf16,
      generationConfig,
      nameOrPath: idOrPath,
      checkpointHash,
      tokenizer: lazyTokenizer(folder, onNote),
    });
  } finally {
    await checkpoint.close();
  }
}

/** The folder of a model: itself, the embedded one, or a snapshot in the Hub's cache. */
export function resolveFolder(idOrPath: string, options: Omit<FromPretrainedOptions, "device"> = {}): Promise<string> {
  if (idOrPath === EMBEDDED_MODEL) return Promise.resolve().then(embeddedModelFolder);
  const { onProgress, ...rest } = options;
  return resolveModel(idOrPath, {
    ...rest,
    ...(onProgress && { onProgress: (progress: HubProgress) => onProgress({ phase: "download", ...progress }) }),
  });
}

/** Builds the model; its weights are freed if that fails. */
export function construct(model: new (parts: ModelParts) => CausalLM, parts: ModelParts): CausalLM {
  try {
    return new model(parts);
  } catch (error) {
    parts.weights.dispose();
    throw error;
  }
}

/** generation_config.json, where there is one; keys of it and of config.json without effect are noted. */
export async function readGeneration(
  folder: string,
  { config, unread }: ResolvedConfig,
  onNote?: OnNote,
): Promise<GenerationConfig> {
  const path = await pathInside(folder, "generation_config.json");
  const keys = new Keys(existsSync(path) ? await readJsonFile(path) : {});
  const generation = readGenerationConfig(keys, config.eosTokenIds);
  noteUnread("config.json", folder, unread, onNote);
  noteUnread("generation_config.json", folder, keys.unread(), onNote);
  return generation;
}

export function usesBf16(dtype: MathDType, device: Device): boolean {
  if (!["auto", "float32", "bfloat16"].includes(dtype)) {
    throw new LowrankError("INVALID_ARGUMENT", `dtype must be "auto", "float32" or "bfloat16", not ${JSON.stringify(dtype)}`);
  }
  return dtype === "bfloat16" || (dtype === "auto" && device.info.bf16);
}

function quantizeOptions(options: FromPretrainedOptions) {
  return {
    quantType: options.bnb4bitQuantType ?? "nf4",
    doubleQuant: options.bnb4bitUseDoubleQuant ?? true,
    blocksize: options.blocksize ?? 64,
  };
}

/** Reads the tokenizer when it is first asked for; undefined for a folder without one. */
function lazyTokenizer(folder: string, onNote: OnNote | undefined): () => Promise<Tokenizer | undefined> {
  let tokenizer: Promise<Tokenizer> | undefined;
  return async () => {
    if (!existsSync(join(folder, "tokenizer.json"))) return undefined;
    tokenizer ??= AutoTokenizer.fromPretrained(folder, { onNote });
    return tokenizer;
  };
}
