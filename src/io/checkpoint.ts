import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { LIMITS, pathInside } from "./input.js";
import { readJsonFile } from "./json.js";
import { openSafetensors, refusePickle, type SafetensorsFile, type TensorInfo, type TensorSource } from "./safetensors.js";

const SINGLE = "model.safetensors";
const INDEX = "model.safetensors.index.json";

/** The weights of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names. */
export class Checkpoint implements TensorSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>;

  constructor(
    readonly folder: string,
    /** The shards by file name, in the index's order. */
    readonly files: ReadonlyMap<string, SafetensorsFile>,
    /** Tensor name to shard. */
    readonly weightMap: ReadonlyMap<string, SafetensorsFile>,
  ) {
    this.tensors = new Map([...weightMap].map(([name, file]) => [name, file.info(name)]));
  }

  read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    return this.shard(name).read(name);
  }

  readInto(name: string, target: Uint8Array, offset: number, length: number): Promise<void> {
    return this.shard(name).readInto(name, target, offset, length);
  }

  async close(): Promise<void> {
    await Promise.all([...this.files.values()].map((file) => file.close()));
  }

  private shard(name: string): SafetensorsFile {
    const file = this.weightMap.get(name);
    if (!file)
      throw new LowrankError("NOT_FOUND", `${this.folder} has no tensor '${name}'`, {
        details: { folder: this.folder, tensor: name },
      });
    return file;
  }
}

/**
 * Opens a model folder's weights; all headers are checked, no data is read.
 * Throws NOT_FOUND (no folder, no weights), INVALID_FILE (damaged file, index that lies or leaves the folder), UNSUPPORTED (pickles).
 */
export async function openCheckpoint(folder: string): Promise<Checkpoint> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    throw new LowrankError("NOT_FOUND", `${folder} is not a folder that can be read: ${error.code}`, {
      details: { folder },
      cause: error,
    });
  });
  if (names.includes(SINGLE)) {
    const file = await openSafetensors(await pathInside(folder, SINGLE));
    return new Checkpoint(folder, new Map([[SINGLE, file]]), new Map([...file.tensors.keys()].map((name) => [name, file])));
  }
  if (names.includes(INDEX)) return openShards(folder);
  for (const name of names) refusePickle(join(folder, name));
  throw new LowrankError("NOT_FOUND", `${folder} holds no weights: neither ${SINGLE} nor ${INDEX}`, {
    hint: "Give the folder of a Hugging Face model in safetensors form.",
    details: { folder, found: names.slice(0, 20) },
  });
}

async function openShards(folder: string): Promise<Checkpoint> {
  const indexPath = await pathInside(folder, INDEX);
  const { weight_map: weightMap } = await readJsonFile(indexPath, LIMITS.index);
  if (weightMap === null || typeof weightMap !== "object" || Array.isArray(weightMap) || Object.keys(weightMap).length === 0) {
    throw badIndex(indexPath, "has no weight_map with tensors");
  }
  const files = new Map<string, SafetensorsFile>();
  const tensors = new Map<string, SafetensorsFile>();
  try {
    for (const [name, shard] of Object.entries(weightMap)) {
      if (typeof shard !== "string") throw badIndex(indexPath, `names no file for tensor '${name}'`);
      let file = files.get(shard);
      if (!file) {
        file = await await openShard(folder, indexPath, shard);
        files.set(shard, file);
      }
      if (!file.tensors.has(name)) throw badIndex(indexPath, `says that ${shard} holds '${name}', which it does not`);
      tensors.set(name, file);
    }
  } catch (error) {
    await Promise.all([...files.values()].map((file) => file.close()));
    throw error;
  }
  return new Checkpoint(folder, files, tensors);
}

async function openShard(folder: string, indexPath: string, shard: string): Promise<SafetensorsFile> {
  refusePickle(shard);
  const path = await pathInside(folder, shard, indexPath);
  return openSafetensors(path).catch((error) => {
    if (!(error instanceof LowrankError) || error.code !== "NOT_FOUND") throw error;
    throw new LowrankError("NOT_FOUND", `${path} does not exist, but ${INDEX} names it`, {
      hint: "The model is incomplete: download the missing shard.",
      details: { file: path },
      cause: error,
    });
  });
}

function badIndex(path: string, what: string): LowrankError {
  return new LowrankError("INVALID_FILE", `${path} ${what}`, {
    hint: "Download or write the model again.",
    details: { file: path },
  });
}
