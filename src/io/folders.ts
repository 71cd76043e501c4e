import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { access, mkdir, open, readdir, realpath, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join, resolve } from "node:path";
import { isAlive, thisProcess } from "./process-identity.js";

const TEMP = ".lowrank-tmp-";
const TEMP_NAME = /^\.lowrank-tmp-(?<pid>\d+)-(?<startTime>\d+)-/;

/** Puts a folder's entries on the disk: what was created, renamed or removed in it. */
export async function syncFolder(path: string): Promise<void> {
  if (process.platform === "win32") return; // folders cannot be opened there
  const handle = await open(path, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Creates a folder and those above it that are missing, each of them on the disk when it resolves. Step by step: Node's `recursive` never
 * ends where the system answers ENOENT though the folder above is there, as /proc does.
 */
export async function makeFolders(path: string): Promise<void> {
  const parent = dirname(path);
  try {
    await mkdir(path).catch(async (error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT" || parent === path) throw error;
      await makeFolders(parent);
      await mkdir(path);
    });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST" && (await stat(path)).isDirectory()) return;
    throw error;
  }
  await syncFolder(parent);
}

/** Throws what the system has against writing in a folder, or in the nearest one above it that exists. @param path absolute */
export async function assertWritable(path: string): Promise<void> {
  await access(path, constants.W_OK | constants.X_OK).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" || dirname(path) === path) throw error;
    return assertWritable(dirname(path));
  });
}

/** Removes a folder; renamed first, so that neither a kill nor a power cut leaves half of it under its name. */
export async function removeFolder(path: string): Promise<void> {
  const doomed = join(dirname(path), tempName());
  await rename(path, doomed);
  await syncFolder(dirname(path));
  await rm(doomed, { recursive: true });
}

/** One spelling for each place: absolute, with the links of what exists followed. */
export async function canonical(path: string): Promise<string> {
  const absolute = resolve(path);
  const parent = dirname(absolute);
  return realpath(absolute).catch(async (error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" || parent === absolute) throw error;
    return join(await canonical(parent), basename(absolute));
  });
}

/** A name for something unfinished, which tells whose it is. */
export function tempName(): string {
  const { pid, startTime } = thisProcess();
  return `${TEMP}${pid}-${startTime ?? "0"}-${randomBytes(4).toString("hex")}`;
}

/** Removes what killed processes left unfinished; what lives of another process stays. */
export async function removeStale(folder: string): Promise<void> {
  const own = thisProcess();
  for (const name of await readdir(folder)) {
    const owner = TEMP_NAME.exec(name)?.groups as { pid: string; startTime: string } | undefined;
    if (owner && !isAlive({ ...own, ...owner, pid: Number(owner.pid) }))
      await rm(join(folder, name), { recursive: true, force: true });
  }
}
