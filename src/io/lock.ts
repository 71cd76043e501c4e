import { randomBytes } from "node:crypto";
import { readFileSync, rmSync } from "node:fs";
import { link, mkdir, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { isAlive, type ProcessIdentity, thisProcess } from "./process-identity.js";

const NAME = ".lowrank.lock";

export interface FolderLock {
  /** Set when a dead process's lock was taken over: a sentence for people. */
  readonly note: string | undefined;
  release(): void;
}

/**
 * Takes the one lock of a folder (created if absent). The lock file holds pid, process start time and boot id, so that a lock whose
 * process is gone, by kill or reboot, is taken over. Throws LOCKED while its owner lives.
 */
export async function lockFolder(folder: string): Promise<FolderLock> {
  await mkdir(folder, { recursive: true });
  const path = join(folder, NAME);
  const own = thisProcess();
  const draft = `${path}.${own.pid}-${randomBytes(4).toString("hex")}`;
  await writeFile(draft, JSON.stringify(own));
  let note: string | undefined;
  try {
    // link() creates the lock with its content in one step, and fails if one is there.
    for (let tries = 0; ; tries++) {
      const taken = await link(draft, path).then(
        () => true,
        (error: NodeJS.ErrnoException) => {
          if (error.code !== "EEXIST") throw error;
          return false;
        },
      );
      if (taken) break;
      const owner = readOwner(path);
      if (owner === undefined) continue; // released in the meantime
      if (tries > 20 || (owner !== null && isAlive(owner))) throw locked(folder, path, owner);
      // Moved away first: of two processes that saw the dead owner only one can move its file.
      const aside = `${draft}.dead`;
      await rename(path, aside).catch(() => {});
      const moved = readOwner(aside);
      if (moved && isAlive(moved)) {
        await link(aside, path).catch(() => {}); // someone was faster: theirs goes back
      } else if (moved !== undefined) {
        note = moved
          ? `took over ${folder} from process ${moved.pid}, which ended without releasing it`
          : `took over ${folder}: its lock file was unreadable`;
      }
      await rm(aside, { force: true });
    }
  } finally {
    await rm(draft, { force: true });
  }
  const release = () => {
    const owner = readOwner(path);
    if (owner && owner.pid === own.pid && owner.startTime === own.startTime) rmSync(path, { force: true });
  };
  return { note, release };
}

/** The owner written in a lock file; null when it cannot be understood, undefined when there is none. */
function readOwner(path: string): ProcessIdentity | null | undefined {
  try {
    const owner = JSON.parse(readFileSync(path, "utf8"));
    return Number.isInteger(owner?.pid) ? { startTime: null, bootId: null, host: thisProcess().host, ...owner } : null;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "ENOENT" ? undefined : null;
  }
}

function locked(folder: string, path: string, owner: ProcessIdentity | null): LowrankError {
  const who =
    owner === null ? "another process" : `process ${owner.pid}${owner.host === thisProcess().host ? "" : ` on ${owner.host}`}`;
  return new LowrankError("LOCKED", `${folder} is in use by ${who}`, {
    hint: `Wait for it to end or choose another output_dir; if it cannot be running any more, delete ${path}.`,
    details: { folder, lock: path, owner },
  });
}
