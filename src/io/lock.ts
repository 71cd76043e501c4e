import { randomBytes } from "node:crypto";
import { constants } from "node:fs";
import { copyFile, link, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { LowrankError } from "../errors.js";
import { canonical, makeFolders, removeStale, tempName } from "./folders.js";
import { isAlive, type ProcessIdentity, thisProcess } from "./process-identity.js";
import { reading, writing } from "./system-errors.js";

const NAME = ".lowrank.lock";
const NEXT = ".next";

export interface FolderLock {
  /** Set when a dead process's lock was taken over: a sentence for people. */
  readonly note: string | undefined;
  /** Throws CHECKPOINT when the lock file cannot be removed. */
  release(): Promise<void>;
}

/** What a lock file holds. */
interface Owner extends ProcessIdentity {
  /** Tells the locks of one process apart. */
  id?: string;
}

/** Lock files that are ours. */
const held = new Set<string>();
/** The last writer of each folder in this process. */
const turns = new Map<string, Promise<unknown>>();

/**
 * Takes the one lock of a folder (created if absent). The lock file holds pid, process start time and boot id, so that a lock whose
 * process is gone, by kill or reboot, is taken over. Throws LOCKED while its owner lives.
 */
export function lockFolder(folder: string): Promise<FolderLock> {
  return writing(folder, async () => {
    const path = await canonical(folder);
    await makeFolders(path);
    return take(join(path, NAME), path);
  });
}

/** Throws LOCKED when another process holds the lock of a folder; for those who will need it only after long work. */
export function assertUnlocked(folder: string): Promise<void> {
  return reading(folder, async () => {
    const path = join(await canonical(folder), NAME);
    if (!held.has(path)) assertNotHeld(folder, path, await readOwner(path));
  });
}

/**
 * Runs `body` while nobody else writes to the folder `path` (canonical): calls of this process come one after the other, also where it
 * holds the folder's lock; another process gets LOCKED.
 */
export async function exclusive<T>(path: string, body: () => Promise<T>): Promise<T> {
  const former = turns.get(path);
  const turn = (async () => {
    await former?.catch(() => {});
    const lock = await lockTarget(path);
    try {
      return await body();
    } finally {
      await lock?.release();
    }
  })();
  turns.set(path, turn);
  try {
    return await turn;
  } finally {
    if (turns.get(path) === turn) turns.delete(path);
  }
}

/** A folder with content is locked inside; one that is to appear by rename, beside. Undefined when the lock is ours already. */
async function lockTarget(path: string): Promise<FolderLock | undefined> {
  for (;;) {
    const inside = await hasContent(path);
    const file = inside ? join(path, NAME) : join(dirname(path), `${NAME}-${basename(path)}`);
    if (held.has(file)) return undefined;
    const lock = await take(file, path);
    let right = false;
    try {
      right = (await hasContent(path)) === inside;
    } finally {
      if (!right) await lock.release();
    }
    if (right) return lock;
  }
}

/** Whether there is a folder with something in it. */
export async function hasContent(path: string): Promise<boolean> {
  const names = await readdir(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
    return [];
  });
  return names.length > 0;
}

/**
 * Removes what killed processes left in a folder: unfinished files, and locks of folders that were to appear in it. Each such lock is
 * taken over first, so that none is removed that lives.
 */
export async function tidy(folder: string): Promise<void> {
  await removeStale(folder);
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    if (!name.startsWith(`${NAME}-`)) continue;
    const owner = await readOwner(path);
    if (owner === undefined || isHolding(owner)) continue;
    await take(path, folder).then(
      (lock) => lock.release(),
      (error) => {
        if ((error as LowrankError).code !== "LOCKED") throw error;
      },
    );
  }
}

async function take(path: string, folder: string): Promise<FolderLock> {
  const own: Owner = { ...thisProcess(), id: randomBytes(8).toString("hex") };
  const draft = join(dirname(path), tempName());
  let note: string | undefined;
  try {
    await writeFile(draft, JSON.stringify(own));
    while (!(await linkNew(draft, path))) {
      const owner = await readOwner(path);
      if (owner === undefined) continue; // released in the meantime
      assertNotHeld(folder, path, owner);
      await takeOver(draft, path, folder);
      if ((await readOwner(path))?.id !== own.id) continue;
      note = owner
        ? `took over ${folder} from process ${owner.pid}, which ended without releasing it`
        : `took over ${folder}: its lock file was unreadable`;
      break;
    }
  } finally {
    await rm(draft).catch(() => {}); // what stays goes when this process has ended
  }
  held.add(path);
  const release = () => {
    held.delete(path);
    return writing(path, async () => {
      if ((await readOwner(path))?.id === own.id) await rm(path);
    });
  };
  return { note, release };
}

/**
 * Replaces a dead owner's lock file in one step, if nobody else is quicker. Only who holds `<path>.next` may, so that no living owner's
 * file is ever moved.
 */
async function takeOver(draft: string, path: string, folder: string): Promise<void> {
  const next = `${path}${NEXT}`;
  if (!(await linkNew(draft, next))) {
    assertNotHeld(folder, path, await readOwner(next));
    return rm(next, { force: true });
  }
  try {
    const owner = await readOwner(path);
    if (owner === undefined || isHolding(owner)) return await rm(next, { force: true });
    await rename(next, path).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== "ENOENT") throw error;
    });
  } catch (error) {
    await rm(next).catch(() => {}); // ours, and we live: nobody could lock the folder any more
    throw error;
  }
}

/** Creates a file with its content in one step, or says that one is there. */
async function linkNew(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to).catch((error: NodeJS.ErrnoException) => {
      // File systems without links, as on USB sticks.
      if (!["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"].includes(error.code!)) throw error;
      return copyFile(from, to, constants.COPYFILE_EXCL);
    });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    return false;
  }
}

/** The owner written in a lock file; null when it cannot be understood, undefined when there is none. Its owner may live where reading fails. */
async function readOwner(path: string): Promise<Owner | null | undefined> {
  const text = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  if (text === undefined) return undefined;
  try {
    const owner = JSON.parse(text);
    return Number.isInteger(owner?.pid) ? { startTime: null, bootId: null, host: thisProcess().host, ...owner } : null;
  } catch {
    return null;
  }
}

const isHolding = (owner: Owner | null) => owner !== null && isAlive(owner);

/** Throws LOCKED where there is an owner and lives. */
function assertNotHeld(folder: string, path: string, owner: Owner | null | undefined): void {
  if (!owner || !isAlive(owner)) return;
  const who = `process ${owner.pid}${owner.host === thisProcess().host ? "" : ` on ${owner.host}`}`;
  throw new LowrankError("LOCKED", `${folder} is in use by ${who}`, {
    hint: `Wait for it to end or choose another output_dir; if it cannot be running any more, delete ${path}.`,
    details: { folder, lock: path, owner },
  });
}
