import { existsSync, readFileSync, statSync } from "node:fs";
import { hostname } from "node:os";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { LowrankError } from "../errors.js";
import { HubCache, hubCacheFolder, hubHome } from "./hub-cache.js";
import { downloadFile, linkedController, type RemoteFile, reasonOf } from "./hub-download.js";
import { LIMITS } from "./input.js";
import { type JsonObject, parseJsonObject } from "./json.js";
import { type FolderLock, lockFolder } from "./lock.js";
import type { ProcessIdentity } from "./process-identity.js";
import { settleFolder } from "./settle.js";
import { checkSpace } from "./space.js";

export interface HubProgress {
  /** The file whose bytes came last. */
  file: string;
  /** Bytes here and bytes of all files, those that were cached left out. */
  done: number;
  total: number;
}
export interface ResolveOptions {
  /** Branch, tag or commit; default "main". */
  revision?: string;
  /** Default: HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub, shared with Python. */
  cacheDir?: string;
  /** Default: HF_TOKEN, or the token that `hf auth login` stored. */
  token?: string;
  /** Never use the network; default: HF_HUB_OFFLINE. */
  offline?: boolean;
  signal?: AbortSignal;
  onProgress?: (progress: HubProgress) => void;
}

const ID = /^[A-Za-z0-9][\w.-]*(\/[A-Za-z0-9][\w.-]*)?$/;
const PARALLEL = 4;
const LOOK_AGAIN_MS = 200;

/**
 * The local folder of a model or adapter: a folder as it is, or a Hub id from the cache, downloaded there first where needed.
 * Where somebody else downloads it, that is waited for. Throws NOT_FOUND (no such folder or model), HUB (gated, offline and not cached,
 * checksum, network), NO_SPACE, UNSUPPORTED (pickles only), LOCKED (another machine downloads it into the same cache).
 */
export async function resolveModel(idOrPath: string, options: ResolveOptions = {}): Promise<string> {
  options.signal?.throwIfAborted();
  if (existsSync(idOrPath)) {
    if (statSync(idOrPath).isDirectory()) {
      await settleFolder(idOrPath);
      return resolve(idOrPath);
    }
    throw new LowrankError("NOT_FOUND", `${idOrPath} is a file, not the folder of a model`, {
      hint: "Give the folder that holds config.json.",
    });
  }
  if (!ID.test(idOrPath) || idOrPath.includes("..")) {
    throw new LowrankError("NOT_FOUND", `'${idOrPath}' is neither a folder nor a Hub id`, {
      hint: "Give a folder that exists or an id such as Qwen/Qwen2.5-0.5B-Instruct.",
    });
  }
  const revision = options.revision ?? "main";
  if (!/^[\w][\w./-]*$/.test(revision) || revision.includes("..")) {
    throw new LowrankError("INVALID_ARGUMENT", `'${revision}' cannot be a revision`, {
      hint: "Give a branch, a tag or a commit.",
    });
  }
  const cache = new HubCache(options.cacheDir ?? hubCacheFolder(), idOrPath);
  const cached = await cache.complete(revision);
  const offline = options.offline ?? /^(1|true|yes|on)$/i.test(process.env.HF_HUB_OFFLINE ?? "");
  // A commit never changes, so a complete snapshot of one needs no question to the Hub.
  if (cached !== undefined && (offline || /^[0-9a-f]{40}$/.test(revision))) return cached;
  if (offline) throw notCached(idOrPath, revision, cache, "offline mode is on (HF_HUB_OFFLINE)");

  const headers = authorization(options.token);
  let listing: Response;
  try {
    const url = `${endpoint()}/api/models/${idOrPath}/revision/${encodeURIComponent(revision)}?blobs=true`;
    listing = await fetch(url, { headers, ...(options.signal ? { signal: options.signal } : {}) });
  } catch (error) {
    options.signal?.throwIfAborted();
    if (cached !== undefined) return cached;
    throw notCached(idOrPath, revision, cache, `${endpoint()} cannot be reached: ${reasonOf(error)}`, error);
  }
  if (listing.status >= 500 && cached !== undefined) return cached;
  if (!listing.ok) throw refused(idOrPath, revision, listing);
  const { commit, files } = readListing(idOrPath, await listingText(idOrPath, listing, options.signal));
  await download(cache, commit, files, headers, options).catch((error) => {
    // A gated model's listing is public, its files are not.
    const status = error instanceof LowrankError ? error.details.status : undefined;
    throw status === 401 || status === 403 ? gated(idOrPath, status) : error;
  });
  await cache.setRef(revision, commit);
  return cache.snapshot(commit);
}

async function download(
  cache: HubCache,
  commit: string,
  files: RemoteFile[],
  headers: Record<string, string>,
  options: ResolveOptions,
) {
  const present = await Promise.all(files.map((file) => cache.has(commit, file.name, file.size)));
  const missing = files.filter((_, i) => !present[i]);
  if (missing.length === 0) return;
  const lock = await lockOnceFree(cache.folder, options.signal);
  try {
    await downloadMissing(cache, missing, headers, options);
    for (const file of missing) await cache.link(commit, file.name, file.hash);
  } finally {
    await lock.release();
  }
}

/** The lock of a repository's cache, so that two downloads never write into one partial file. */
async function lockOnceFree(folder: string, signal: AbortSignal | undefined): Promise<FolderLock> {
  for (;;) {
    try {
      return await lockFolder(folder);
    } catch (error) {
      const { code, details } = error as LowrankError;
      // Of another machine's process nobody knows whether it lives, so that it is not waited for.
      if (code !== "LOCKED" || (details.owner as ProcessIdentity).host !== hostname()) throw error;
      await sleep(LOOK_AGAIN_MS);
      signal?.throwIfAborted();
    }
  }
}

async function downloadMissing(cache: HubCache, missing: RemoteFile[], headers: Record<string, string>, options: ResolveOptions) {
  // Files of one content are one blob: downloaded twice at once they would write into each other.
  const blobs = new Map(missing.map((file) => [file.hash, file]));
  const absent = [...blobs.values()].filter((file) => !existsSync(cache.blob(file.hash)));
  const total = absent.reduce((sum, file) => sum + file.size, 0);
  await checkSpace(cache.folder, total);
  let done = 0;
  const stop = linkedController(options.signal);
  const queue = [...absent];
  const worker = async () => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const { name } = file;
      const onBytes = (delta: number) => {
        done += delta;
        options.onProgress?.({ file: name, done, total });
      };
      await downloadFile(file, cache.blob(file.hash), headers, onBytes, stop.signal);
    }
  };
  const outcomes = Array.from({ length: PARALLEL }, () =>
    worker().catch((error) => {
      if (!stop.signal.aborted) stop.abort(error); // the first failure ends the others
    }),
  );
  await Promise.all(outcomes);
  if (stop.signal.aborted) throw stop.signal.reason;
  stop.abort(); // forgets the caller's signal
}

/** The body of an answer; no more of it than a listing may have. */
async function listingText(id: string, response: Response, signal: AbortSignal | undefined): Promise<string> {
  const parts: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const part of response.body ?? []) {
      parts.push(part);
      size += part.length;
      if (size > LIMITS.config.bytes) break;
    }
    return new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(parts));
  } catch (error) {
    signal?.throwIfAborted();
    throw badListing(id, "was cut short or is no text", error);
  }
}

/** The files of a repository that a model or adapter is read from: configuration, tokenizer, templates and safetensors at its top. */
function readListing(id: string, text: string): { commit: string; files: RemoteFile[] } {
  const bad = (what: string, cause?: unknown) => badListing(id, what, cause);
  let listing: JsonObject;
  try {
    listing = parseJsonObject(text, "the listing");
  } catch (error) {
    throw bad(`cannot be understood: ${(error as Error).message}`, error);
  }
  const { sha, siblings: given } = listing;
  if (typeof sha !== "string" || !/^[0-9a-f]{40}$/.test(sha) || !Array.isArray(given)) throw bad("cannot be understood");
  const siblings = given.filter((sibling): sibling is Sibling => typeof (sibling as JsonObject | null)?.rfilename === "string");
  const names = siblings.map(({ rfilename }) => rfilename);
  if (!names.some((name) => name.endsWith(".safetensors")) && names.some((name) => /\.(bin|pt|pth)$/.test(name))) {
    throw new LowrankError("UNSUPPORTED", `${id} has its weights as Python pickles only; only safetensors files are read`, {
      hint: "Look for a safetensors version or convert it: https://huggingface.co/spaces/safetensors/convert.",
    });
  }
  const files = siblings
    .filter(({ rfilename }) => isNeeded(rfilename))
    .map(({ rfilename, size, blobId, lfs }): RemoteFile => {
      const hash = (lfs as JsonObject | null | undefined)?.sha256 ?? blobId;
      if (typeof hash !== "string" || !/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash) || !isSize(size))
        throw bad(`has no size or hash for ${rfilename}`);
      return { name: rfilename, url: `${endpoint()}/${id}/resolve/${sha}/${encodeURIComponent(rfilename)}`, size, hash };
    });
  if (files.length > LIMITS.hubFiles) throw bad(`names ${files.length} files to read, more than ${LIMITS.hubFiles}`);
  if (new Set(files.map(({ name }) => name)).size < files.length) throw bad("names a file twice");
  return { commit: sha, files };
}

type Sibling = JsonObject & { rfilename: string };
const isSize = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

function badListing(id: string, what: string, cause?: unknown): LowrankError {
  return new LowrankError("HUB", `${endpoint()} gave a listing of ${id} that ${what}`, { hint: "Check HF_ENDPOINT.", cause });
}

const isNeeded = (name: string) =>
  /^[^/\\]+\.(json|safetensors|jinja|txt|model)$/.test(name) && !name.startsWith(".") && !name.startsWith("consolidated");

function refused(id: string, revision: string, response: Response): LowrankError {
  const url = `${endpoint()}/${id}`;
  const details = { id, revision, status: response.status };
  const reason = response.headers.get("x-error-code");
  if (response.status === 404 || reason === "RepoNotFound" || reason === "RevisionNotFound") {
    if (reason === "RevisionNotFound")
      return new LowrankError("NOT_FOUND", `${id} has no revision '${revision}' on the Hub`, {
        hint: `See ${url}/tree/main.`,
        details,
      });
    return new LowrankError("NOT_FOUND", `${id} is not on the Hub (${url})`, {
      hint: "Check the spelling; a private model needs HF_TOKEN.",
      details,
    });
  }
  if (response.status === 401 || response.status === 403) return gated(id, response.status);
  return new LowrankError("HUB", `the Hub answered ${response.status} for ${id}`, { hint: "Try again later.", details });
}

function gated(id: string, status: number): LowrankError {
  return new LowrankError("HUB", `${id} is gated: accept its licence at ${endpoint()}/${id}, then set HF_TOKEN`, {
    hint: "Make a token at https://huggingface.co/settings/tokens.",
    details: { id, status },
  });
}

function notCached(id: string, revision: string, cache: HubCache, why: string, cause?: unknown): LowrankError {
  return new LowrankError("HUB", `${id} (${revision}) is not in the cache ${cache.folder}, and ${why}`, {
    hint: "Go online once to download it, or give the path of a local folder.",
    details: { id, revision, cache: cache.folder },
    cause,
  });
}

function authorization(token = process.env.HF_TOKEN ?? storedToken()): Record<string, string> {
  return { "user-agent": "lowrank", ...(token ? { authorization: `Bearer ${token}` } : {}) };
}

function storedToken(): string | undefined {
  const path = process.env.HF_TOKEN_PATH ?? join(hubHome(), "token");
  return existsSync(path) ? readFileSync(path, "utf8").trim() : undefined;
}

const endpoint = () => (process.env.HF_ENDPOINT ?? "https://huggingface.co").replace(/\/+$/, "");
