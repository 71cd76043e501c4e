import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type Files, mutateFile } from "./files.js";
import type { Format } from "./format.js";
import { Random } from "./random.js";

/** A larger one takes the time of a large data set; test/hostile has files of gigabytes. */
const LARGEST = 32 << 20;

/** The mutant of a seed: the same one at every call. */
export function mutantOf(format: Format, seed: number): Files {
  const random = new Random(seed);
  const files = new Map(random.pick(format.seeds));
  for (let i = random.chance(0.15) ? 2 : 1; i > 0; i--) {
    const name = random.pick(format.targets);
    const mutated = mutateFile(name, files.get(name)!, random);
    if (mutated.length <= LARGEST) files.set(name, mutated);
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
