/** Writes a model folder as transformers does: config, generation config, tokenizer files, weights in shards. */
import { readFile, stat } from "node:fs/promises";
import { basename } from "node:path";
import { type FolderWriter, writeFolder } from "../io/durable.js";
import { safetensorsSize, type TensorEntry, tensorBytes, writeSafetensors } from "../io/safetensors-write.js";

/** Shards hold at most this many bytes (transformers' default since version 5 is 50 GB; 5 GB suits every reader). */
export const MAX_SHARD_BYTES = 5e9;
const METADATA = { format: "pt" };

export interface ModelFolder {
  /** config.json. */
  config: Readonly<Record<string, unknown>>;
  /** generation_config.json; left out when empty. */
  generationConfig: Readonly<Record<string, unknown>>;
  tensors: readonly TensorEntry[];
  /** Files to copy as they are, such as those of the tokenizer. */
  copies: readonly string[];
  maxShardBytes?: number | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
}

/** Writes everything durably: afterwards the folder is whole, or as it was before. */
export async function writeModelFolder(path: string, folder: ModelFolder): Promise<void> {
  const shards = planShards(folder.tensors, folder.maxShardBytes ?? MAX_SHARD_BYTES);
  const copies = await Promise.all(folder.copies.map(async (copy) => (await stat(copy)).size));
  const needed = shards.reduce((sum, tensors) => sum + safetensorsSize(METADATA, tensors), 0) + copies.reduce((a, b) => a + b, 0);
  await writeFolder(path, (dir) => writeModelFiles(dir, folder), { needed, replace: true });
}

/** The same files into a folder that is being written, such as a checkpoint. */
export async function writeModelFiles(dir: FolderWriter, folder: ModelFolder): Promise<void> {
  const shards = planShards(folder.tensors, folder.maxShardBytes ?? MAX_SHARD_BYTES);
  const progress = countBytes(folder);
  await dir.file("config.json", withFloats(json(folder.config)));
  if (Object.keys(folder.generationConfig).length > 0)
    await dir.file("generation_config.json", withFloats(json(folder.generationConfig)));
  for (const copy of folder.copies) await dir.file(basename(copy), await readFile(copy));
  const names = shards.map((_, i) => shardName(i, shards.length));
  for (const [i, tensors] of shards.entries())
    await dir.file(names[i]!, (sink) => writeSafetensors(sink, METADATA, tensors.map(progress)));
  if (shards.length > 1) await dir.file("model.safetensors.index.json", json(shardIndex(shards, names)));
}

/** Tensors in their order, a new shard where the next one would not fit. */
export function planShards(tensors: readonly TensorEntry[], maxBytes: number): TensorEntry[][] {
  const shards: TensorEntry[][] = [[]];
  let size = 0;
  for (const tensor of tensors) {
    const bytes = tensorBytes(tensor.dtype, tensor.shape);
    if (size > 0 && size + bytes > maxBytes) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1)!.push(tensor);
    size += bytes;
  }
  return shards;
}

function shardName(index: number, count: number): string {
  const number = (n: number) => String(n).padStart(5, "0");
  return count === 1 ? "model.safetensors" : `model-${number(index + 1)}-of-${number(count)}.safetensors`;
}

function shardIndex(shards: readonly TensorEntry[][], names: readonly string[]) {
  const total = shards.flat().reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0);
  const map = shards.flatMap((tensors, i) => tensors.map(({ name }) => [name, names[i]!] as const));
  return { metadata: { total_size: total }, weight_map: Object.fromEntries(map.sort(([a], [b]) => (a < b ? -1 : 1))) };
}

/** Wraps a tensor so that its bytes are counted, and the signal looked at, when its turn comes. */
function countBytes({ tensors, signal, onProgress }: ModelFolder): (entry: TensorEntry) => TensorEntry {
  const total = tensors.reduce((sum, { dtype, shape }) => sum + tensorBytes(dtype, shape), 0);
  let done = 0;
  return (entry) => ({
    ...entry,
    bytes: () => {
      signal?.throwIfAborted();
      onProgress?.({ done, total });
      done += tensorBytes(entry.dtype, entry.shape);
      return entry.bytes();
    },
  });
}

const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;

/**
 * Keys of the two files where transformers takes no integer (configuration_*.py, logits_process.py): Python tells 50.0 from 50,
 * JavaScript prints both as 50.
 */
const FLOATS =
  "attn_logit_softcapping encoder_repetition_penalty final_logit_softcapping initializer_range repetition_penalty rms_norm_eps temperature";

/** The text with integers of those keys as floats. */
const withFloats = (text: string) =>
  text.replace(new RegExp(`^( *"(?:${FLOATS.replaceAll(" ", "|")})": -?\\d+)(?=,?$)`, "gm"), "$1.0");
