import { existsSync } from "node:fs";
import { readFile, realpath, stat, symlink, unlink } from "node:fs/promises";
import { homedir } from "node:os";
import { dirname, join, relative } from "node:path";
import { writeFileDurable } from "./durable.js";
import { makeFolders } from "./folders.js";
import { LIMITS } from "./input.js";
import { readJsonFile } from "./json.js";

/** The Hub cache that Python's huggingface_hub uses too: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. */
export function hubCacheFolder(): string {
  return process.env.HF_HUB_CACHE ?? process.env.HUGGINGFACE_HUB_CACHE ?? join(hubHome(), "hub");
}

export function hubHome(): string {
  return process.env.HF_HOME ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "huggingface");
}

/** One repository in the cache: blobs by hash, snapshots by commit as links to them, refs from branch or tag to commit. */
export class HubCache {
  readonly folder: string;

  constructor(cacheDir: string, id: string) {
    this.folder = join(cacheDir, `models--${id.replaceAll("/", "--")}`);
  }

  blob(hash: string): string {
    return join(this.folder, "blobs", hash);
  }

  snapshot(commit: string): string {
    return join(this.folder, "snapshots", commit);
  }

  /** The snapshot of a revision when all of it that a model or adapter needs is there. */
  async complete(revision: string): Promise<string | undefined> {
    const commit = /^[0-9a-f]{40}$/.test(revision)
      ? revision
      : await readFile(join(this.folder, "refs", revision), "utf8").catch(() => undefined);
    if (commit === undefined || !/^[0-9a-f]{40}$/.test(commit.trim())) return undefined;
    const snapshot = this.snapshot(commit.trim());
    return (await isComplete(snapshot)) ? snapshot : undefined;
  }

  /** Whether a file of a snapshot leads to bytes of that size. */
  async has(commit: string, name: string, size: number): Promise<boolean> {
    const found = await stat(join(this.snapshot(commit), name)).catch(() => undefined);
    return found?.size === size;
  }

  async link(commit: string, name: string, hash: string): Promise<void> {
    const path = join(this.snapshot(commit), name);
    await makeFolders(dirname(path));
    await unlink(path).catch(() => {});
    await symlink(relative(await realpath(dirname(path)), await realpath(this.blob(hash))), path).catch(
      (error: NodeJS.ErrnoException) => {
        if (error.code !== "EEXIST") throw error; // another process links the same blob
      },
    );
  }

  async setRef(revision: string, commit: string): Promise<void> {
    if (revision !== commit) await writeFileDurable(join(this.folder, "refs", revision), commit);
  }
}

async function isComplete(snapshot: string): Promise<boolean> {
  const has = (name: string) => existsSync(join(snapshot, name)); // follows links: false for a link to a missing blob
  if (has("adapter_config.json") && has("adapter_model.safetensors")) return true;
  if (!has("config.json")) return false;
  if (has("model.safetensors")) return true;
  if (!has("model.safetensors.index.json")) return false;
  const { weight_map: weightMap } = await readJsonFile(join(snapshot, "model.safetensors.index.json"), LIMITS.index);
  return Object.values(weightMap ?? {}).every((shard) => typeof shard === "string" && has(shard));
}
