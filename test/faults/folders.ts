import { accessSync, constants, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll } from "vitest";

const made: string[] = [];

/** A temporary folder in memory where there is one: thousands of rounds, and an fsync of a disk takes milliseconds. */
export function roundsFolder(): string {
  let parent = "/dev/shm";
  try {
    accessSync(parent, constants.W_OK);
  } catch {
    parent = tmpdir();
  }
  made.push(mkdtempSync(join(parent, "lowrank-faults-")));
  return made.at(-1)!;
}

afterAll(() => {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
});
