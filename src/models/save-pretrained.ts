/** A model as the files of a Hugging Face folder. */
import type { FolderWriter } from "../io/durable.js";
import type { SafetensorsDType } from "../io/safetensors.js";
import type { TensorEntry } from "../io/safetensors-write.js";
import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import { cast } from "../ops/copy.js";
import type { Tensor } from "../tensor/tensor.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { fourBitEntries, quantizationConfig } from "./bitsandbytes.js";
import type { CausalLM } from "./causal-lm.js";
import { type ModelFolder, writeModelFiles, writeModelFolder } from "./save.js";

export type SavedDType = "float32" | "bfloat16" | "float16";

export interface SavePretrainedOptions {
  /** Writes every weight in this dtype, 4-bit ones dequantised. Default: as they are, 4-bit ones in bitsandbytes' form. */
  dtype?: SavedDType;
  /** Whose files are copied; default: the tokenizer of the folder the model came from. */
  tokenizer?: Tokenizer;
  /** Default 5 GB. */
  maxShardBytes?: number;
  signal?: AbortSignal;
  onProgress?: (progress: { done: number; total: number }) => void;
}

/** How files call them. */
export const SAVED_DTYPES: Readonly<Record<SavedDType, SafetensorsDType>> = { float32: "F32", bfloat16: "BF16", float16: "F16" };
/** Bytes read from the device at once. */
const CHUNK_BYTES = 16 << 20;

/** Writes the model's folder durably. Adapters are not part of it: merge them first. */
export async function savePretrained(model: CausalLM, folder: string, options: SavePretrainedOptions = {}): Promise<void> {
  await writeModelFolder(folder, await modelFolder(model, options));
}

/** The same files, but for the tokenizer's, into a folder that is being written, such as a checkpoint. */
export async function writeFiles(model: CausalLM, dir: FolderWriter, options: SavePretrainedOptions = {}): Promise<void> {
  await writeModelFiles(dir, { ...(await modelFolder(model, options)), copies: [] });
}

async function modelFolder(model: CausalLM, options: SavePretrainedOptions): Promise<ModelFolder> {
  const tokenizer = options.tokenizer ?? (await model.tokenizer());
  return {
    config: savedConfig(model, options.dtype),
    generationConfig: model.generationConfig.json,
    tensors: await savedTensors(model, options.dtype),
    copies: tokenizer ? await tokenizer.files() : [],
    maxShardBytes: options.maxShardBytes,
    signal: options.signal,
    onProgress: options.onProgress,
  };
}

async function savedTensors(model: CausalLM, dtype: SavedDType | undefined): Promise<TensorEntry[]> {
  const entries: TensorEntry[] = [];
  const own = model.dtype as SavedDType;
  for (const [path, module] of model.modules()) {
    if (module instanceof Linear) {
      if (module.weight.borrowed) continue; // a tied head
      const { weight } = module;
      const name = `${path}.weight`;
      if (weight.dense) entries.push(floatEntry(name, weight.dense, dtype ?? (weight.dense.dtype as SavedDType)));
      else if (dtype === undefined) entries.push(...(await fourBitEntries(name, weight, weight.fourBitParts!, own)));
      else
        entries.push({
          name,
          dtype: SAVED_DTYPES[dtype],
          shape: [weight.outFeatures, weight.inFeatures],
          bytes: () => dequantizedBytes(weight.dequantize(dtype)),
        });
      if (module.bias) entries.push(floatEntry(`${path}.bias`, module.bias, dtype ?? own));
    } else {
      // Norms are float32 in memory whatever the checkpoint holds.
      for (const [name, tensor] of module.tensors()) {
        entries.push(
          floatEntry(`${path}.${name}`, tensor, dtype ?? (module instanceof Embedding ? (tensor.dtype as SavedDType) : own)),
        );
      }
    }
  }
  return entries;
}

function floatEntry(name: string, tensor: Tensor, dtype: SavedDType): TensorEntry {
  return { name, dtype: SAVED_DTYPES[dtype], shape: tensor.shape, bytes: () => floatBytes(tensor, dtype) };
}

async function* dequantizedBytes(tensor: Tensor): AsyncGenerator<Uint8Array> {
  try {
    yield* floatBytes(tensor, tensor.dtype as SavedDType);
  } finally {
    tensor.dispose();
  }
}

/** The values in pieces, converted on the device, so that a large matrix is never in JavaScript as a whole. */
async function* floatBytes(tensor: Tensor, dtype: SavedDType): AsyncGenerator<Uint8Array> {
  using flat = tensor.reshape(tensor.size);
  for (let at = 0; at < tensor.size; at += CHUNK_BYTES / 4) {
    using part = flat.slice(at, Math.min(at + CHUNK_BYTES / 4, tensor.size));
    using converted = tensor.dtype === dtype ? undefined : cast(part, dtype);
    const values = await (converted ?? part).read();
    yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  }
}

/** config.json of what is written; every key that is not ours to change stays. */
function savedConfig(model: CausalLM, dtype: SavedDType | undefined): Record<string, unknown> {
  const { json, architecture } = model.config;
  const { quantization_config: former, ...config } = json;
  const linears = [...model.modules()].filter(
    (entry): entry is [string, Linear] => entry[1] instanceof Linear && entry[1] !== model.lmHead,
  );
  const quantized = dtype === undefined ? linears.filter(([, { weight }]) => weight.kind === "4bit") : [];
  const dense = linears.filter((entry) => !quantized.includes(entry)).map(([path]) => path);
  const key = "torch_dtype" in config ? "torch_dtype" : "dtype";
  const parts = quantized[0]?.[1].weight.fourBitParts;
  return {
    ...config,
    architectures: [architecture],
    ...(model.config.tieWordEmbeddings && { tie_word_embeddings: model.lmHead.weight.borrowed }),
    [key]: dtype ?? model.dtype,
    ...(parts ? { quantization_config: quantizationConfig(parts, dense, former ?? {}) } : {}),
  };
}
