import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { open, rename, rm, stat } from "node:fs/promises";
import { dirname } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { LowrankError } from "../errors.js";
import { makeFolders } from "./folders.js";
import { freeBytes, noSpace } from "./space.js";

export interface RemoteFile {
  name: string;
  url: string;
  size: number;
  /** SHA-256 for large files, git's SHA-1 of the blob for small ones: hex. */
  hash: string;
}

const ATTEMPTS = 5;
const STALL_MS = 30_000;

/**
 * Downloads one file to `target`. Bytes gather in `target.incomplete`, which a later call continues with a Range request. Dropped
 * connections and busy servers are tried again; the finished file must have the announced size and hash.
 */
export async function downloadFile(
  file: RemoteFile,
  target: string,
  headers: Record<string, string>,
  onBytes: (delta: number) => void,
  signal?: AbortSignal,
): Promise<void> {
  await makeFolders(dirname(target));
  const partial = `${target}.incomplete`;
  const resumed = await sizeOf(partial);
  onBytes(resumed);
  await fetchAll(file, partial, headers, onBytes, signal);
  if (!(await matches(partial, file)) && resumed > 0) {
    // The old part may have been another program's: once more from the start.
    onBytes(-(await sizeOf(partial)));
    await rm(partial, { force: true });
    await fetchAll(file, partial, headers, onBytes, signal);
  }
  if (!(await matches(partial, file))) {
    const found = await sizeOf(partial);
    await rm(partial, { force: true });
    throw new LowrankError("HUB", `checksum mismatch: ${file.name} from ${file.url} is not what the Hub announced`, {
      hint: "Run again; if it stays so, a proxy or mirror between you and the Hub changes files.",
      details: { file: file.name, url: file.url, expected: file.hash, size: file.size, found },
    });
  }
  await rename(partial, target);
}

async function fetchAll(
  file: RemoteFile,
  partial: string,
  headers: Record<string, string>,
  onBytes: (delta: number) => void,
  signal?: AbortSignal,
) {
  for (let attempt = 1; ; attempt++) {
    try {
      await fetchRest(file, partial, headers, onBytes, signal);
      return;
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof LowrankError) throw error;
      if ((error as NodeJS.ErrnoException).code === "ENOSPC") throw noSpace(partial, file.size, await freeBytes(partial), error);
      if (attempt === ATTEMPTS) {
        throw new LowrankError("HUB", `${file.name} could not be downloaded from ${file.url}: ${reasonOf(error)}`, {
          hint: "Check the network and run again: the download goes on where it stopped.",
          details: { file: file.name, url: file.url, attempts: ATTEMPTS },
          cause: error,
        });
      }
      await sleep(100 * 2 ** attempt, undefined, signal ? { signal } : {});
    }
  }
}

/** One request for what is still missing, appended to `partial`. Throws a plain error where another try may help. */
async function fetchRest(
  file: RemoteFile,
  partial: string,
  headers: Record<string, string>,
  onBytes: (delta: number) => void,
  signal?: AbortSignal,
) {
  let have = await sizeOf(partial);
  if (have > file.size) {
    onBytes(-have);
    await rm(partial, { force: true });
    have = 0;
  }
  if (have === file.size && have > 0) return;
  const stop = linkedController(signal);
  const stalled = () => stop.abort(new Error("the server stopped sending"));
  let timer = setTimeout(stalled, STALL_MS);
  try {
    const response = await fetch(file.url, {
      headers: { ...headers, "accept-encoding": "identity", ...(have > 0 ? { range: `bytes=${have}-` } : {}) },
      signal: stop.signal,
    });
    if (response.status === 416 || (have > 0 && response.status === 200)) {
      onBytes(-have); // the server cannot continue: from the start
      await rm(partial, { force: true });
      if (response.status === 416) throw new Error("the server refused to continue the download");
    } else if (!response.ok) {
      await response.body?.cancel();
      const message = `the server answered ${response.status} for ${file.url}`;
      if (response.status < 500 && response.status !== 429 && response.status !== 408)
        throw new LowrankError("HUB", message, { details: { status: response.status } });
      throw new Error(message);
    }
    const handle = await open(partial, "a");
    try {
      for await (const chunk of chunks(response, stop.signal)) {
        clearTimeout(timer);
        timer = setTimeout(stalled, STALL_MS);
        await handle.appendFile(chunk);
        onBytes(chunk.byteLength);
        if ((await handle.stat()).size > file.size) break; // more than announced: the check of the hash refuses it
      }
      await handle.sync();
    } finally {
      await handle.close();
    }
    if ((await sizeOf(partial)) < file.size) throw new Error("the connection ended too early");
  } finally {
    clearTimeout(timer);
    stop.abort(); // also frees a connection whose answer is not wanted any more
  }
}

/**
 * A controller that aborts with `signal`. Not AbortSignal.any: Node 20 may collect such a signal as garbage before it fires, and then
 * the download hangs.
 */
export function linkedController(signal?: AbortSignal): AbortController {
  const controller = new AbortController();
  if (signal?.aborted) controller.abort(signal.reason);
  else signal?.addEventListener("abort", () => controller.abort(signal.reason), { once: true, signal: controller.signal });
  return controller;
}

/** The body's parts. An abort ends the wait for the next one, even where the stream itself would not notice it. */
async function* chunks(response: Response, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (!reader) return;
  const aborted = new Promise<never>((_, reject) => {
    const onAbort = () => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
  });
  aborted.catch(() => {}); // it may come when nobody waits
  for (;;) {
    const { done, value } = await Promise.race([reader.read(), aborted]);
    if (done) return;
    yield value;
  }
}

async function matches(path: string, file: RemoteFile): Promise<boolean> {
  if ((await sizeOf(path)) !== file.size) return false;
  const git = file.hash.length === 40;
  const hash = createHash(git ? "sha1" : "sha256");
  if (git) hash.update(`blob ${file.size}\0`);
  await pipeline(createReadStream(path, { highWaterMark: 1 << 20 }), hash);
  return hash.digest("hex") === file.hash;
}

async function sizeOf(path: string): Promise<number> {
  return (await stat(path).catch(() => undefined))?.size ?? 0;
}

/** fetch hides the reason of a network failure in `cause`. */
export function reasonOf(error: unknown): string {
  const { message, cause } = error as Error;
  return cause instanceof Error ? `${message} (${cause.message || (cause as NodeJS.ErrnoException).code})` : message;
}
