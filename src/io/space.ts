import { existsSync } from "node:fs";
import { type FileHandle, open, rm, statfs, unlink } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { getSystemErrorName } from "node:util";
import { LowrankError } from "../errors.js";
import { loadAddon } from "../native/load.js";
import { tempName } from "./folders.js";

/** Left free besides, so that a save never takes a disk's last bytes from the rest of the system. */
const MARGIN = 8 * 1024 * 1024;
/** Bytes given back at once: less than the margin, so that what is written before has its place. */
const STEP = 4 * 1024 * 1024;

/** Refuses with NO_SPACE when the file system that holds (or will hold) `path` has fewer than `needed` bytes to give. */
export async function checkSpace(path: string, needed: number): Promise<void> {
  const free = await freeBytes(path);
  if (free < needed + MARGIN) throw noSpace(path, needed, free);
}

/**
 * Bytes of a disk that are already ours while a save is being written: they belong to a file without a name, which shrinks as the
 * save grows and is gone with the process.
 */
export class Reservation {
  private constructor(
    private readonly handle: FileHandle | undefined,
    private left: number,
    private owed = 0,
  ) {}

  /**
   * Takes `needed` bytes of the disk that holds `folder`. Throws NO_SPACE when it has fewer. A file system that cannot allocate ahead
   * (or a missing addon) leaves it at the figure of free bytes.
   */
  static async make(folder: string, needed: number): Promise<Reservation> {
    if (needed === 0) return new Reservation(undefined, 0);
    await checkSpace(folder, needed);
    const name = join(folder, tempName());
    const handle = await open(name, "w");
    try {
      const refusal = allocate(name, needed);
      await unlink(name);
      if (refusal === undefined) return new Reservation(handle, needed);
      if (!CANNOT.includes(refusal))
        throw Object.assign(new Error(`${refusal}: fallocate`), { code: refusal, syscall: "fallocate" });
    } catch (error) {
      await handle.close().catch(() => {});
      await rm(name).catch(() => {});
      throw error;
    }
    await handle.close();
    return new Reservation(undefined, 0);
  }

  /** Gives `bytes` back, for those that are about to be written. */
  async give(bytes: number): Promise<void> {
    this.owed += bytes;
    if (this.owed < STEP) return;
    this.left = Math.max(0, this.left - this.owed);
    this.owed = 0;
    await this.handle?.truncate(this.left);
  }

  async release(): Promise<void> {
    await this.handle?.close();
  }
}

/** EFBIG: one file may not be that large, several may. */
const CANNOT = ["EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EINVAL", "EFBIG"];

function allocate(path: string, bytes: number): string | undefined {
  try {
    const errno = loadAddon().allocateFile(path, bytes);
    return errno === 0 ? undefined : getSystemErrorName(-errno);
  } catch (error) {
    if ((error as LowrankError).code !== "NATIVE") throw error;
    return "ENOSYS"; // files can be written without the addon
  }
}

/** Bytes that the file system that holds (or will hold) `path` has to give. */
export async function freeBytes(path: string): Promise<number> {
  let folder = resolve(path);
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** The NO_SPACE error; `needed` and `free` in bytes, where they are known. */
export function noSpace(path: string, needed: number | undefined, free: number | undefined, cause?: unknown): LowrankError {
  const figures = [
    ...(needed === undefined ? [] : [`${formatBytes(needed)} are needed`]),
    ...(free === undefined ? [] : [`${formatBytes(free)} are free`]),
  ];
  return new LowrankError("NO_SPACE", `the disk of ${path} is too full${figures.length > 0 ? `: ${figures.join(", ")}` : ""}`, {
    hint: "Free some space or choose a folder on another disk; nothing that was there has been changed.",
    details: { path, needed, free },
    cause,
  });
}

/** Bytes for people: 512 B, 3.4 MiB, 12.0 GiB. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; unit++) bytes /= 1024;
  return `${unit === 0 ? bytes : bytes.toFixed(1)} ${units[unit]}`;
}
