import { createHash, randomBytes } from "node:crypto";
import { type FileHandle, mkdir, open, readdir, rename, rm } from "node:fs/promises";
import { basename, dirname, join, posix, resolve } from "node:path";
import { LowrankError } from "../errors.js";
import { addChecksum, MANIFEST, type Manifest, type ManifestFacts, type ManifestFile, readManifest } from "./manifest.js";
import { isAlive, thisProcess } from "./process-identity.js";
import { checkSpace, freeBytes, noSpace } from "./space.js";

/** Where a file's bytes go; calls are awaited one after the other. */
export interface ByteSink {
  write(bytes: Uint8Array): Promise<void>;
}
export type FileBody = string | Uint8Array | ((sink: ByteSink) => Promise<void>);

export interface FolderWriter {
  /** Writes one file, `name` relative to the folder (forward slashes). Bytes are hashed as they pass. */
  file(name: string, body: FileBody): Promise<void>;
}

export interface WriteFolderOptions {
  /** Bytes the whole will take; refused with NO_SPACE before anything is written when the disk has fewer. */
  needed?: number;
  /** Facts for the manifest. */
  facts?: ManifestFacts;
  /** Remove files of the folder's former manifest that are not written again. Files no manifest lists are never touched. */
  replace?: boolean;
}

const COMMIT = ".lowrank-commit";
const TEMP = ".lowrank-tmp-";

/**
 * The one way files are saved. Everything goes to a temporary folder on the target's file system, is fsynced and hashed into
 * manifest.json, and appears in one step: a new folder by rename; in a folder that exists, the complete set is first committed by one
 * rename inside it and then moved into place, which `settleFolder` finishes after a kill. So a reader that settles first finds all the
 * old files or all the new ones. Throws NO_SPACE, or CHECKPOINT when the folder cannot be written; the target is then as it was.
 */
export async function writeFolder(
  target: string,
  body: (dir: FolderWriter) => Promise<void>,
  options: WriteFolderOptions = {},
): Promise<void> {
  const path = resolve(target);
  await guard(path, options.needed, async () => {
    if (options.needed !== undefined) await checkSpace(path, options.needed);
    await mkdir(dirname(path), { recursive: true });
    await settleFolder(path);
    const present = await readdir(path).catch(() => []);
    // Inside a folder that has content: the folder may be a mount point, and rename must not cross file systems.
    const parent = present.length > 0 ? path : dirname(path);
    await removeStale(parent);
    const temp = join(parent, tempName());
    await mkdir(temp);
    try {
      const files: Record<string, ManifestFile> = {};
      const folders = new Set<string>([temp]);
      await body({ file: (name, content) => addFile(temp, name, content, files, folders) });
      if (present.length > 0 && !options.replace) Object.assign(files, { ...(await untouchedFiles(path)), ...files });
      const manifest = addChecksum({ formatVersion: 1, ...options.facts, files });
      await writeNew(join(temp, MANIFEST), `${JSON.stringify(manifest, null, 2)}\n`);
      for (const folder of folders) await syncFolder(folder);
      if (present.length === 0) {
        await rename(temp, path);
        await syncFolder(parent);
      } else {
        await rename(temp, join(path, COMMIT));
        await syncFolder(path);
        await settleFolder(path);
      }
    } catch (error) {
      await rm(temp, { recursive: true, force: true });
      throw error;
    }
  });
}

/** Replaces one file: temporary file beside it, fsync, rename, fsync of the folder. Throws NO_SPACE or CHECKPOINT. */
export async function writeFileDurable(path: string, body: FileBody, options: { needed?: number } = {}): Promise<void> {
  const target = resolve(path);
  await guard(target, options.needed, async () => {
    if (options.needed !== undefined) await checkSpace(target, options.needed);
    await mkdir(dirname(target), { recursive: true });
    await removeStale(dirname(target));
    const temp = join(dirname(target), tempName());
    try {
      await writeNew(temp, body);
      await rename(temp, target);
    } catch (error) {
      await rm(temp, { force: true });
      throw error;
    }
    await syncFolder(dirname(target));
  });
}

/** Finishes a save that was committed but not yet moved into place when its process was killed. Cheap when there is none. */
export async function settleFolder(path: string): Promise<void> {
  const commit = join(path, COMMIT);
  const pending = await readdir(commit, { recursive: true, withFileTypes: true }).catch(() => undefined);
  if (pending === undefined) return;
  if (pending.some((entry) => entry.name === MANIFEST)) {
    const next = await readManifest(commit).catch((error: LowrankError) => {
      if (error.code !== "NOT_FOUND") throw error;
      return undefined; // another process has just finished it
    });
    if (next === undefined) return;
    const former = await readManifest(path).catch(() => undefined);
    for (const entry of pending) {
      if (entry.isDirectory()) continue;
      const name = join(entry.parentPath, entry.name).slice(commit.length + 1);
      if (name === MANIFEST) continue;
      await mkdir(dirname(join(path, name)), { recursive: true });
      await moveOnce(join(commit, name), join(path, name));
    }
    for (const name of Object.keys(former?.files ?? {}))
      if (!Object.hasOwn(next.files, name)) await rm(join(path, name), { force: true });
    for (const name of Object.keys(next.files)) if (name.includes("/")) await syncFolder(dirname(join(path, name)));
    await syncFolder(path);
    await moveOnce(join(commit, MANIFEST), join(path, MANIFEST));
  }
  // The manifest moves last: what is left besides it are empty folders.
  await rm(commit, { recursive: true, force: true });
  await syncFolder(path);
}

/** Two processes may settle the same folder: what one has moved is no error for the other. */
async function moveOnce(from: string, to: string): Promise<void> {
  await rename(from, to).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
}

async function addFile(
  temp: string,
  name: string,
  body: FileBody,
  files: Record<string, ManifestFile>,
  folders: Set<string>,
): Promise<void> {
  if (
    posix.normalize(name) !== name ||
    posix.isAbsolute(name) ||
    name.startsWith("..") ||
    name === MANIFEST ||
    Object.hasOwn(files, name)
  ) {
    throw new LowrankError("INVALID_ARGUMENT", `'${name}' cannot be the name of a file in the folder`);
  }
  const path = join(temp, name);
  for (let folder = dirname(path); folder !== temp; folder = dirname(folder)) folders.add(folder);
  await mkdir(dirname(path), { recursive: true });
  files[name] = await writeNew(path, body);
}

/** Writes, fsyncs and closes a file that must not exist yet; any failing close is an error too. */
async function writeNew(path: string, body: FileBody): Promise<ManifestFile> {
  const handle = await open(path, "wx");
  const hash = createHash("sha256");
  let size = 0;
  const write = async (bytes: Uint8Array) => {
    await writeFully(handle, bytes);
    hash.update(bytes);
    size += bytes.byteLength;
  };
  try {
    if (typeof body === "function") await body({ write });
    else await write(typeof body === "string" ? new TextEncoder().encode(body) : body);
    await handle.sync();
  } catch (error) {
    await handle.close().catch(() => {});
    throw error;
  }
  await handle.close();
  return { size, sha256: hash.digest("hex") };
}

async function writeFully(handle: FileHandle, bytes: Uint8Array): Promise<void> {
  const PART = 1 << 28;
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(PART, bytes.byteLength - done));
    done += bytesWritten;
  }
}

async function syncFolder(path: string): Promise<void> {
  if (process.platform === "win32") return; // folders cannot be opened there
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/** Files of the folder's own manifest, which stay valid beside the newly written ones. */
async function untouchedFiles(path: string): Promise<Manifest["files"]> {
  return (await readManifest(path).catch(() => undefined))?.files ?? {};
}

function tempName(): string {
  const { pid, startTime } = thisProcess();
  return `${TEMP}${pid}-${startTime ?? "0"}-${randomBytes(4).toString("hex")}`;
}

/** Removes what killed processes left behind; another live process's temporary files stay. */
async function removeStale(folder: string): Promise<void> {
  const own = thisProcess();
  for (const name of await readdir(folder).catch(() => [])) {
    const [pid, startTime] = name.startsWith(TEMP) ? basename(name).slice(TEMP.length).split("-") : [];
    if (pid === undefined || startTime === undefined) continue;
    if (!isAlive({ ...own, pid: Number(pid), startTime })) await rm(join(folder, name), { recursive: true, force: true });
  }
}

async function guard(path: string, needed: number | undefined, body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    if (code === "ENOSPC" || code === "EDQUOT") throw noSpace(path, needed, await freeBytes(path), error);
    if (error instanceof LowrankError || syscall === undefined) throw error;
    throw new LowrankError("CHECKPOINT", `${path} cannot be written: ${message}`, {
      hint: "Check that the folder exists, is yours to write and that its disk works.",
      details: { path, errno: code },
      cause: error,
    });
  }
}
