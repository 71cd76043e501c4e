import { lstat, mkdir, realpath, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { LowrankError } from "../errors.js";
import { canonical, syncFolder } from "./folders.js";
import { exclusive } from "./lock.js";
import { formerManifest, MANIFEST, type Manifest, verifyFolder } from "./manifest.js";
import { writing } from "./system-errors.js";

/** Inside a folder: its next state, complete and on the disk, on its way into place. */
export const COMMIT = ".lowrank-commit";

/**
 * Finishes a save that was committed but not yet moved into place when its process was killed; cheap when there is none. A new state
 * that is damaged is dropped where the old one is whole, and the result says what was wrong with it. Throws CHECKPOINT where neither
 * is, and leaves both; LOCKED while another process is at it.
 */
export function settleFolder(folder: string): Promise<string[]> {
  return writing(folder, async () => {
    if (!(await isPending(folder))) return [];
    const path = await canonical(folder);
    return exclusive(path, () => finishCommit(path));
  });
}

/** The same for who has the folder to itself. */
export async function finishCommit(path: string): Promise<string[]> {
  if (!(await isPending(path))) return [];
  const commit = join(path, COMMIT);
  // The manifest moves last: without it only empty folders are left.
  if (!(await exists(join(commit, MANIFEST)))) {
    await drop(path);
    return [];
  }
  // A file may have been moved already: the commit's counts where it is still there.
  const next = await verifyFolder(commit, async (name) => ((await exists(join(commit, name))) ? commit : path));
  if (next.ok) {
    await moveInto(path, next.manifest);
    return [];
  }
  const { problems } = next;
  if (!(await verifyFolder(path)).ok) {
    throw new LowrankError(
      "CHECKPOINT",
      `${path} was being replaced when its process ended, and its new files are damaged: ${problems.join("; ")}`,
      {
        hint: "Use another checkpoint, or save to the folder again: that replaces both.",
        details: { path, problems },
      },
    );
  }
  await drop(path);
  return problems;
}

/** Moves a complete commit into place; whatever interrupts it, the same call finishes it. */
export async function moveInto(path: string, next: Manifest): Promise<void> {
  const commit = join(path, COMMIT);
  const former = await formerManifest(path);
  const touched = new Set([path]);
  const touch = (name: string) => {
    for (let folder = dirname(join(path, name)); folder !== path; folder = dirname(folder)) touched.add(folder);
  };
  for (const name of Object.keys(next.files)) {
    if (!(await exists(join(commit, name)))) continue; // moved before, or untouched by this save
    touch(name);
    await mkdir(dirname(join(path, name)), { recursive: true });
    if (!(await liesInside(path, name))) throw new LowrankError("CHECKPOINT", `${join(path, name)} would lie behind a link`);
    await rename(join(commit, name), join(path, name));
  }
  for (const name of Object.keys(former?.files ?? {})) {
    if (Object.hasOwn(next.files, name) || !(await liesInside(path, name))) continue;
    touch(name);
    await rm(join(path, name)).catch(unlessAbsent);
  }
  for (const folder of touched) await syncFolder(folder);
  await rename(join(commit, MANIFEST), join(path, MANIFEST));
  await drop(path);
}

/** Removes the commit folder. */
export async function drop(path: string): Promise<void> {
  await rm(join(path, COMMIT), { recursive: true });
  await syncFolder(path);
}

/** Whether a file's folder is where its name says, not behind a link. */
async function liesInside(path: string, name: string): Promise<boolean> {
  const folder = dirname(join(path, name));
  return (await realpath(folder).catch(unlessAbsent)) === folder;
}

const isPending = (path: string) => exists(join(path, COMMIT));

async function exists(path: string): Promise<boolean> {
  return (await lstat(path).catch(unlessAbsent)) !== undefined;
}

function unlessAbsent(error: NodeJS.ErrnoException): undefined {
  if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
}
