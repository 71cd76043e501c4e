import { createHash, webcrypto } from "node:crypto";
import { stat } from "node:fs/promises";
import { type Checkpoint, openCheckpoint } from "./checkpoint.js";

/** Bytes hashed as one piece; a tensor is the list of its pieces. */
const PIECE = 4 << 20;
/** Pieces in work at once: digests run on the thread pool, each in a buffer of its own. */
const WORKERS = 4;

/**
 * SHA-256 that names the content of a checkpoint: every tensor's name, dtype, shape and bytes as stored, in the order of the names.
 * How the tensors lie in files, the files' names, headers and metadata do not matter. A tensor's bytes count by the SHA-256 of their
 * pieces of 4 MiB, so that all cores can work.
 */
export async function checkpointHash(checkpoint: Checkpoint): Promise<string> {
  const tensors = [...checkpoint.tensors].sort(([a], [b]) => (a < b ? -1 : 1));
  const digests = new Map(tensors.map(([name]) => [name, [] as string[]]));
  const pieces = piecesOf(checkpoint);
  const work = async () => {
    const buffer = new Uint8Array(PIECE);
    for (const { name, index, length } of pieces) {
      await checkpoint.readInto(name, buffer, index * PIECE, length);
      const digest = await webcrypto.subtle.digest("SHA-256", buffer.subarray(0, length));
      digests.get(name)![index] = Buffer.from(digest).toString("hex");
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, work));
  const hash = createHash("sha256");
  for (const [name, { dtype, shape }] of tensors) hash.update(`${JSON.stringify([name, dtype, shape, digests.get(name)])}\n`);
  return hash.digest("hex");
}

/** All pieces of all tensors, in the order of the files; workers take them from one iterator. */
function* piecesOf({ tensors, weightMap, files }: Checkpoint): Generator<{ name: string; index: number; length: number }> {
  for (const file of files.values()) {
    const own = [...tensors].filter(([name]) => weightMap.get(name) === file).sort(([, a], [, b]) => a.begin - b.begin);
    for (const [name, { begin, end }] of own)
      for (let index = 0; index * PIECE < end - begin; index++)
        yield { name, index, length: Math.min(PIECE, end - begin - index * PIECE) };
  }
}

/**
 * The hash of a checkpoint that is loaded now, computed when it is first asked for, from the files as they are then: null when they
 * are no longer those that were loaded (gone, or another size or time of change).
 */
export async function lazyCheckpointHash(checkpoint: Checkpoint): Promise<() => Promise<string | null>> {
  const { folder } = checkpoint;
  const loaded = await stateOf(checkpoint);
  let hash: Promise<string | null> | undefined;
  const compute = async () => {
    const unchanged = async () => (await stateOf(checkpoint).catch(() => undefined)) === loaded;
    if (!(await unchanged())) return null;
    const again = await openCheckpoint(folder);
    try {
      const found = await checkpointHash(again);
      return (await unchanged()) ? found : null;
    } finally {
      await again.close();
    }
  };
  return () => {
    hash ??= compute().catch((error: unknown) => {
      hash = undefined; // perhaps it can be read the next time
      throw error;
    });
    return hash;
  };
}

/** Which files these are, as far as the file system tells. */
async function stateOf({ files }: Checkpoint): Promise<string> {
  const states = [...files.values()].map(async ({ path }) => {
    const { ino, size, mtimeNs } = await stat(path, { bigint: true });
    return `${path} ${ino} ${size} ${mtimeNs}`;
  });
  return (await Promise.all(states)).join("\n");
}
