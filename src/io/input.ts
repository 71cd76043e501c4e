import { constants } from "node:fs";
import { type FileHandle, open, realpath } from "node:fs/promises";
import { basename, dirname, isAbsolute, join, normalize, sep } from "node:path";
import { LowrankError } from "../errors.js";

/** Most that a file of one kind may hold. `values` counts what JSON holds: objects, lists, texts, numbers, true, false, null. */
export interface Limits {
  readonly bytes: number;
  readonly values: number;
}

const KIB = 1024;
const MIB = 1024 * KIB;

/**
 * What files may hold at most: the one table of it (docs/reliability.md repeats it). A file above its limit is refused before memory is
 * taken for it; below, memory stays a small multiple of the bytes that are there.
 */
export const LIMITS = {
  /** config.json, generation_config.json, adapter_config.json, tokenizer_config.json, dataset_info.json, manifest.json … */
  config: { bytes: 8 * MIB, values: 400_000 },
  /** What a run has logged grows with its steps. */
  runState: { bytes: 16 * MIB, values: 800_000 },
  /** model.safetensors.index.json. */
  index: { bytes: 16 * MIB, values: 200_000 },
  /** The header of a safetensors file; an entry of one tensor holds about seven values. */
  header: { bytes: 16 * MIB, values: 700_000 },
  tensors: 100_000,
  /** bitsandbytes' quant_state. */
  quantState: { bytes: 64 * KIB, values: 1000 },
  /** Large vocabularies have 33 MB. Twice the file's bytes are taken for a moment. */
  tokenizer: { bytes: 40 * MIB, values: 4_000_000 },
  template: { bytes: MIB, values: 0 },
  /** A training configuration: YAML takes two hundred times its bytes. */
  yaml: { bytes: 32 * KIB, values: 0 },
  /** One row of a data set: a line, a record, an element of a JSON list. */
  row: { bytes: 16 * MIB, values: 400_000 },
  /** Columns of a CSV file, and commas of one of its lines (in texts too): a parser takes time for every cell. */
  columns: 10_000,
  commas: 100_000,
  /** Rows that num_samples of dataset_info.json makes of fewer. */
  samples: 1_000_000,
  /** Files of a repository on the Hub that a model is read from; the largest models have some two hundred. */
  hubFiles: 2000,
  /** Nesting of JSON and YAML, whatever the file. */
  depth: 128,
} as const;

/** Opens a regular file for reading. Throws NOT_FOUND, or INVALID_FILE for folders, pipes, devices and what may not be read. */
export async function openFile(path: string): Promise<FileHandle> {
  // Without O_NONBLOCK opening a pipe waits for its writer, for ever.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR")
      throw new LowrankError("NOT_FOUND", `${path} does not exist`, { details: { file: path }, cause: error });
    throw invalid(path, `cannot be read: ${error.message}`, error);
  });
  const found = await handle.stat().catch((error: Error) => error);
  if (!(found instanceof Error) && found.isFile()) return handle;
  await handle.close();
  throw found instanceof Error
    ? invalid(path, `cannot be read: ${found.message}`, found)
    : invalid(path, "is not a regular file");
}

/** Reads a UTF-8 text file, without its byte order mark. Throws NOT_FOUND, or INVALID_FILE (also above the limit, or not UTF-8). */
export async function readTextFile(path: string, { bytes: limit }: Limits): Promise<string> {
  const handle = await openFile(path);
  try {
    const { size } = await handle.stat();
    if (size > limit) {
      throw new LowrankError("INVALID_FILE", `${path} has ${size} bytes, more than the ${limit} a file of this kind may have`, {
        details: { file: path, expected: limit, found: size },
      });
    }
    const bytes = new Uint8Array(size);
    let done = 0;
    for (let read = -1; read !== 0 && done < size; done += read)
      read = (await handle.read(bytes, done, size - done, done)).bytesRead;
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes.subarray(0, done));
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    throw invalid(
      path,
      `cannot be read: ${error instanceof TypeError ? "it is not UTF-8 text" : (error as Error).message}`,
      error,
    );
  } finally {
    await handle.close();
  }
}

/**
 * The path of a file that a folder holds or that one of its files names. The name stays in the folder, and so does what a link there
 * leads to; in a snapshot of the Hub's cache links lead to the blobs of the same repository. A file that is absent is no error here.
 * @param source what names the file, for the error. @throws LowrankError INVALID_FILE
 */
export async function pathInside(folder: string, name: string, source = folder): Promise<string> {
  const path = normalize(name);
  if (isAbsolute(name) || path === "." || path === ".." || path.startsWith(`..${sep}`) || /[\\\0]/.test(name))
    throw invalid(source, `names the file '${name}', which leaves the folder`);
  const full = join(folder, path);
  // A link that leads nowhere is left to whoever opens the file.
  const real = await realpath(full).catch(() => undefined);
  if (real === undefined) return full;
  const root = await repositoryRoot(folder);
  if (!real.startsWith(root.endsWith(sep) ? root : root + sep))
    throw invalid(source, `names '${name}', a link to ${real} outside the folder`);
  return full;
}

/** `…/models--org--name` for `…/models--org--name/snapshots/<revision>`, else the folder itself; links resolved. */
async function repositoryRoot(folder: string): Promise<string> {
  const real = await realpath(folder);
  const snapshots = dirname(real);
  const repository = dirname(snapshots);
  return basename(snapshots) === "snapshots" && basename(repository).startsWith("models--") ? repository : real;
}

function invalid(path: string, what: string, cause?: unknown): LowrankError {
  return new LowrankError("INVALID_FILE", `${path} ${what}`, {
    hint: "Give regular files that lie in the folder itself; download or write them again where they are damaged.",
    details: { file: path },
    cause,
  });
}
