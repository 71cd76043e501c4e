import { existsSync } from "node:fs";
import { statfs } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { LowrankError } from "../errors.js";

/** Left free besides, so that a save never takes a disk's last bytes from the rest of the system. */
const MARGIN = 8 * 1024 * 1024;

/** Refuses with NO_SPACE when the file system that holds (or will hold) `path` has fewer than `needed` bytes to give. */
export async function checkSpace(path: string, needed: number): Promise<void> {
  const free = await freeBytes(path);
  if (free < needed + MARGIN) throw noSpace(path, needed, free);
}

/** Bytes that the file system that holds (or will hold) `path` has to give. */
export async function freeBytes(path: string): Promise<number> {
  let folder = resolve(path);
  while (!existsSync(folder) && dirname(folder) !== folder) folder = dirname(folder);
  const { bavail, bsize } = await statfs(folder);
  return bavail * bsize;
}

/** The NO_SPACE error; `needed` and `free` in bytes. */
export function noSpace(path: string, needed: number | undefined, free: number, cause?: unknown): LowrankError {
  const figures = `${needed === undefined ? "" : `${formatBytes(needed)} are needed, `}${formatBytes(free)} are free`;
  return new LowrankError("NO_SPACE", `the disk of ${path} is too full: ${figures}`, {
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
