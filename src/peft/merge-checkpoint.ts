/** Adapters merged into the checkpoint they belong to, tensor by tensor: neither the base nor the result is ever in memory as a whole. */
import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { basename } from "node:path";
import { LowrankError } from "../errors.js";
import { type Checkpoint, openCheckpoint } from "../io/checkpoint.js";
import { checkpointHash } from "../io/checkpoint-hash.js";
import { pathInside } from "../io/input.js";
import { readJsonFile } from "../io/json.js";
import type { SafetensorsDType } from "../io/safetensors.js";
import type { TensorEntry } from "../io/safetensors-write.js";
import { readConfigFile } from "../models/config-reader.js";
import { type FromPretrainedOptions, readGeneration, resolveFolder } from "../models/from-pretrained.js";
import type { TensorSpec } from "../models/layout.js";
import { readFileInto } from "../models/loader.js";
import { planLoading } from "../models/plan.js";
import { resolveConfig } from "../models/registry.js";
import { writeModelFolder } from "../models/save.js";
import { SAVED_DTYPES, type SavedDType } from "../models/save-pretrained.js";
import { AdapterPart, LoraPair } from "../nn/adapter-part.js";
import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import { addInto, cast } from "../ops/copy.js";
import { Weight } from "../quant/weight.js";
import { type Device, getDevice } from "../tensor/device.js";
import type { DType } from "../tensor/dtype.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import { Adapter } from "./adapter.js";
import { mergedLinear, mergedTable, noBias } from "./merge.js";
import { type Evidence, judgeMerged, type MergeDrift, sumsOf } from "./merge-check.js";
import { type ModelShape, moduleOf, shapeOfSpecs } from "./model-shape.js";

export interface MergeCheckpointOptions extends Pick<FromPretrainedOptions, "signal" | "offline" | "revision" | "onNote"> {
  device?: string | Device;
  /** Merge an adapter whose side file names another base. */
  ignoreMismatchedBase?: boolean;
  /** Of everything that is written; default: each tensor keeps its own. */
  dtype?: SavedDType;
  /** Whose files are copied; default: those beside the base's weights. */
  tokenizer?: { files(): Promise<readonly string[]> };
  maxShardBytes?: number;
  onProgress?: (progress: { done: number; total: number }) => void;
}

const DTYPES: Readonly<Record<string, SavedDType>> = { F32: "float32", BF16: "bfloat16", F16: "float16" };
/** One name for the adapter in the modules that live while a tensor is merged. */
const NAME = "merged";

/**
 * Writes `out`, the 16- or 32-bit model in `base` (a folder or Hub id) with the adapter of a folder in its weights: every tensor keeps its
 * name and, unless `dtype` is given, its dtype, and those the adapter does not touch their bytes. The way to merge what was trained on a
 * 4-bit form of that model without its rounding. Returns how far the merged weights are from base and adapter. Throws UNSUPPORTED for a base that is itself quantised.
 */
export async function mergeIntoCheckpoint(
  base: string,
  adapterFolder: string,
  out: string,
  options: MergeCheckpointOptions = {},
): Promise<MergeDrift> {
  const { device: on = "cpu", dtype, tokenizer, ignoreMismatchedBase, maxShardBytes, onProgress, ...source } = options;
  const device = typeof on === "object" ? on : getDevice(on);
  const folder = await resolveFolder(base, source);
  const json = await readConfigFile(folder);
  const resolved = resolveConfig(json);
  const { family, config } = resolved;
  if (config.quantization) {
    throw new LowrankError("UNSUPPORTED", `${base} is quantised itself: merging into it rounds the sum`, {
      hint: "Give the 16-bit model that it was made from.",
    });
  }
  await readGeneration(folder, resolved, source.onNote);
  const checkpoint = await openCheckpoint(folder);
  const tried: Evidence[] = [];
  let adapter: Adapter | undefined;
  try {
    const specs = family.weights.tensors(config);
    planLoading(checkpoint, specs, family.weights.ignored);
    const shape = shapeOfSpecs(specs, config.modelType, config.tieWordEmbeddings);
    const known = ignoreMismatchedBase ? null : await checkpointHash(checkpoint);
    adapter = await Adapter.open(shape, device, adapterFolder, { hash: known, nameOrPath: base }, source.onNote);
    assertBiases(adapter, shape);
    const merge = new TensorMerge(checkpoint, adapter, shape, device, dtype, tried);
    const generation = await pathInside(folder, "generation_config.json");
    await writeModelFolder(out, {
      config: {
        ...json,
        ...(config.tieWordEmbeddings && { tie_word_embeddings: !merge.unties }),
        ...(dtype && { ["torch_dtype" in json ? "torch_dtype" : "dtype"]: dtype }),
      },
      generationConfig: existsSync(generation) ? await readJsonFile(generation) : {},
      tensors: merge.entries(specs),
      copies: await companions(folder, await tokenizer?.files()),
      maxShardBytes,
      signal: source.signal,
      onProgress,
    });
    return await judgeMerged(tried);
  } finally {
    for (const evidence of tried) for (const sum of sumsOf(evidence)) sum.dispose();
    adapter?.dispose();
    await checkpoint.close();
  }
}

function assertBiases({ plan }: Adapter, shape: ModelShape): void {
  const biased = new Set(shape.modules.flatMap(({ name, tensors }) => (tensors.bias ? [name] : [])));
  const without = plan.pairs.filter(({ module, bias }) => bias !== undefined && !biased.has(module)).map(({ module }) => module);
  if (without.length > 0) throw noBias(without);
}

/** Files beside the weights that go with a model: tokenizer, chat template; `instead`: files of those names that go before. */
async function companions(folder: string, instead: readonly string[] = []): Promise<string[]> {
  const given = new Set(instead.map((path) => basename(path)));
  const names = (await readdir(folder)).filter(
    (name) =>
      /\.(json|txt|model|jinja)$/.test(name) &&
      !/^(config|generation_config|manifest|lowrank_.*)\.json$|\.index\.json$/.test(name) &&
      !given.has(name),
  );
  return [...instead, ...(await Promise.all(names.sort().map((name) => pathInside(folder, name))))];
}

class TensorMerge {
  /** Whether embedding and head differ once the adapter is in them. */
  readonly unties: boolean;

  constructor(
    private readonly checkpoint: Checkpoint,
    private readonly adapter: Adapter,
    private readonly shape: ModelShape,
    private readonly device: Device,
    /** Of what is written; undefined: of each tensor its own. */
    private readonly dtype: SavedDType | undefined,
    private readonly tried: Evidence[],
  ) {
    const planned = (name: string | null) => adapter.plan.parts.find(({ module }) => module === name);
    const head = planned(shape.outputEmbedding);
    this.unties = shape.tied && (head ? !head.follows : planned(shape.inputEmbedding) !== undefined);
  }

  entries(specs: readonly TensorSpec[]): TensorEntry[] {
    const touched = new Set(this.adapter.plan.parts.map(({ module }) => module));
    const entries = specs.map(({ name, kind }): TensorEntry => {
      const { dtype, shape } = this.checkpoint.tensors.get(name)!;
      const written = this.#written(dtype);
      const bytes =
        touched.has(moduleOf(name)) || written !== dtype
          ? () => this.#merged(name, name, kind === "embedding")
          : () => this.checkpoint.read(name);
      return { name, dtype: written, shape, bytes };
    });
    if (!this.unties) return entries;
    const table = `${this.shape.inputEmbedding}.weight`;
    const { dtype, shape } = this.checkpoint.tensors.get(table)!;
    const name = `${this.shape.outputEmbedding}.weight`;
    return [...entries, { name, dtype: this.#written(dtype), shape, bytes: () => this.#merged(name, table, false) }];
  }

  #written(stored: SafetensorsDType): SafetensorsDType {
    return this.dtype ? SAVED_DTYPES[this.dtype] : stored;
  }

  /** The bytes of tensor `name` with the adapter in it, made of the checkpoint's tensor `source`. */
  async #merged(name: string, source: string, isTable: boolean): Promise<Uint8Array> {
    const path = moduleOf(name);
    const { dtype: stored, shape } = this.checkpoint.tensors.get(source)!;
    const dtype = this.dtype ?? DTYPES[stored]!;
    const own = Tensor.empty(shape, { dtype: DTYPES[stored]!, device: this.device }).keep();
    const made: { dispose(): void }[] = [own];
    try {
      await readFileInto(own, this.checkpoint, source, 0, own.byteLength);
      if (shape.length === 2 && !isTable) await this.adapter.startOn(path, own);
      const part = this.adapter.partOf(path, isTable, shape);
      const merged = this.#sum(own, part, name, isTable, dtype, made);
      if (merged !== own) made.push(merged);
      const latest = this.tried.slice(-1);
      if (latest[0]?.path === path) await judgeMerged(latest);
      const { buffer, byteOffset, byteLength } = await merged.read();
      return new Uint8Array(buffer, byteOffset, byteLength);
    } finally {
      for (const owned of made.reverse()) owned.dispose();
    }
  }

  #sum(
    own: Tensor,
    part: AdapterPart | undefined,
    name: string,
    isTable: boolean,
    dtype: DType,
    made: { dispose(): void }[],
  ): Tensor {
    if (!part) return own.dtype === dtype ? own : scope(() => cast(own, dtype)).keep();
    const path = moduleOf(name);
    if (name.endsWith(".bias") || own.shape.length === 1) {
      made.push(part);
      const sum = scope(() => cast((name.endsWith(".bias") ? part.bias : part.weight) ?? own, "float32")).keep();
      if (name.endsWith(".bias") && part.pair?.bias) addInto(sum, part.pair.bias, part.pair.scale);
      if (dtype === "float32") return sum;
      made.push(sum);
      return scope(() => cast(sum, dtype)).keep();
    }
    if (isTable) {
      const embedding = new Embedding(own.retain());
      embedding.adapters.parts.set(NAME, part);
      made.push(embedding);
      return mergedTable(embedding, [NAME], dtype, path, this.tried);
    }
    // Its bias is a tensor of its own.
    const { pair: full, weight, rows, offset } = part;
    const pair = full && new LoraPair(full.a, full.b, full.scale, 0, undefined, full.transposed, full.magnitude);
    const linear = new Linear(Weight.borrow(own));
    const matrix = new AdapterPart({ pair, weight, rows, offset });
    linear.adapters.parts.set(NAME, matrix);
    made.push(linear);
    for (const bias of [part.bias, full?.bias]) if (bias) made.push(bias);
    const content = mergedLinear(linear, [NAME], dtype, path, this.tried)!;
    const dense = content.weight as Weight;
    const result = dense.dense!.retain();
    dense.dispose();
    return result;
  }
}
