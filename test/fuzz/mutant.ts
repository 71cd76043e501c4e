import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Files, mutateFile } from "./files.js";
import type { Format } from "./format.js";
import { Random } from "./random.js";

/** The mutant of a seed: the same one at every call. */
export function mutantOf(format: Format, seed: number): Files {
  const random = new Random(seed);
  const files = new Map(random.pick(format.seeds));
  for (let i = random.chance(0.15) ? 2 : 1; i > 0; i--) {
    const name = random.pick(format.targets);
    files.set(name, mutateFile(name, files.get(name)!, random));
  }
  format.mend?.(files, random);
  return files;
}

export function writeFiles(folder: string, files: Files): void {
  for (const [name, content] of files) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    writeFileSync(join(folder, name), content);
  }
}
