import { createHash } from "node:crypto";
import { type FileHandle, lstat, mkdir, open, rename, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { LowrankError } from "../errors.js";
import { canonical, makeFolders, removeStale, syncFolder, tempName } from "./folders.js";
import { exclusive, hasContent, tidy } from "./lock.js";
import {
  addChecksum,
  formerManifest,
  isFileName,
  MANIFEST,
  type ManifestFacts,
  type ManifestFile,
  manifestText,
} from "./manifest.js";
import { COMMIT, drop, finishCommit, moveInto } from "./settle.js";
import { Reservation } from "./space.js";
import { writing } from "./system-errors.js";

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
  /** Bytes the whole will take; they are reserved first, or refused with NO_SPACE before anything is written. */
  needed?: number;
  /** Facts for the manifest. */
  facts?: ManifestFacts;
  /** Remove files of the folder's former manifest that are not written again. Files no manifest lists are never touched. */
  replace?: boolean;
}

/**
 * The one way files are saved. Everything goes to a temporary folder on the target's file system, is fsynced and hashed into
 * manifest.json, and appears in one step: a new folder by rename; in a folder that exists, the complete set is first committed by one
 * rename inside it and then moved into place, which `settleFolder` finishes after a kill. So a reader that settles first finds all the
 * old files or all the new ones. Saves of one process to one folder come one after the other; another process gets LOCKED. Throws
 * NO_SPACE, or CHECKPOINT when the folder cannot be written; the target is then as it was, or all new.
 */
export function writeFolder(
  target: string,
  body: (dir: FolderWriter) => Promise<void>,
  options: WriteFolderOptions = {},
): Promise<void> {
  return writing(
    target,
    async () => {
      const path = await canonical(target);
      await makeFolders(dirname(path));
      await exclusive(path, () => replaceFolder(path, body, options));
    },
    options.needed,
  );
}

async function replaceFolder(path: string, body: (dir: FolderWriter) => Promise<void>, options: WriteFolderOptions) {
  await finishCommit(path).catch(async (error) => {
    if ((error as LowrankError).code !== "CHECKPOINT") throw error;
    await drop(path); // neither state can be trusted, and this one replaces both
  });
  // Inside a folder that has content: the folder may be a mount point, and rename must not cross file systems.
  const inside = await hasContent(path);
  const parent = inside ? path : dirname(path);
  await tidy(parent);
  if (inside) await tidy(dirname(path)).catch(() => {}); // the folder above need not be ours to clean
  const temp = join(parent, tempName());
  const space = await Reservation.make(parent, options.needed ?? 0);
  try {
    await mkdir(temp);
    const files: Record<string, ManifestFile> = {};
    const folders = new Set<string>([temp]);
    await body({ file: (name, content) => addFile(temp, name, content, files, folders, space) });
    if (inside) await assertFree(path, Object.keys(files));
    const untouched = options.replace ? undefined : await formerManifest(path);
    const manifest = addChecksum({ formatVersion: 1, ...options.facts, files: { ...untouched?.files, ...files } });
    await writeNew(join(temp, MANIFEST), manifestText(manifest), space);
    for (const folder of folders) await syncFolder(folder);
    if (inside) {
      await rename(temp, join(path, COMMIT));
      await syncFolder(path);
      await moveInto(path, manifest);
    } else {
      await rename(temp, path);
      await syncFolder(parent);
    }
  } catch (error) {
    await rm(temp, { recursive: true }).catch(() => {}); // what stays goes with the next save
    throw error;
  } finally {
    await space.release();
  }
}

/** Replaces one file: temporary file beside it, fsync, rename, fsync of the folder. Throws NO_SPACE or CHECKPOINT. */
export function writeFileDurable(path: string, body: FileBody, options: { needed?: number } = {}): Promise<void> {
  return writing(
    path,
    async () => {
      const target = resolve(path);
      const folder = dirname(target);
      await makeFolders(folder);
      await removeStale(folder);
      const temp = join(folder, tempName());
      const space = await Reservation.make(folder, options.needed ?? 0);
      try {
        await writeNew(temp, body, space);
        await rename(temp, target);
      } catch (error) {
        await rm(temp).catch(() => {});
        throw error;
      } finally {
        await space.release();
      }
      await syncFolder(folder);
    },
    options.needed,
  );
}

async function addFile(
  temp: string,
  name: string,
  body: FileBody,
  files: Record<string, ManifestFile>,
  folders: Set<string>,
  space: Reservation,
): Promise<void> {
  if (!isFileName(name) || Object.hasOwn(files, name))
    throw new LowrankError("INVALID_ARGUMENT", `'${name}' cannot be the name of a file in the folder`);
  const path = join(temp, name);
  for (let folder = dirname(path); folder !== temp; folder = dirname(folder)) folders.add(folder);
  await mkdir(dirname(path), { recursive: true });
  files[name] = await writeNew(path, body, space);
}

/** Refuses, while nothing has changed, what could not be moved into place: a folder where a file goes, or a file or link for a folder. */
async function assertFree(path: string, names: readonly string[]): Promise<void> {
  for (const name of names) {
    for (let at = name; at !== "."; at = dirname(at)) {
      const found = await lstat(join(path, at)).catch(() => undefined);
      if (found === undefined || (at === name ? !found.isDirectory() : found.isDirectory())) continue;
      throw new LowrankError("CHECKPOINT", `${join(path, at)} is in the way of the file ${name}`, {
        hint: "Move it away, or choose another folder.",
        details: { path: join(path, at) },
      });
    }
  }
}

/** Writes, fsyncs and closes a file that must not exist yet; any failing close is an error too. */
async function writeNew(path: string, body: FileBody, space: Reservation): Promise<ManifestFile> {
  const handle = await open(path, "wx");
  const hash = createHash("sha256");
  let size = 0;
  const write = async (bytes: Uint8Array) => {
    await space.give(bytes.byteLength);
    await writeFully(handle, bytes, size);
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

async function writeFully(handle: FileHandle, bytes: Uint8Array, at: number): Promise<void> {
  const PART = 1 << 28;
  for (let done = 0; done < bytes.byteLength; ) {
    const { bytesWritten } = await handle.write(bytes, done, Math.min(PART, bytes.byteLength - done), at + done);
    done += bytesWritten;
  }
}
