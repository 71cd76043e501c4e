import { execFileSync } from "node:child_process";
import { join } from "node:path";

const root = join(import.meta.dirname, "..");

export type Measured = Record<string, number> & { seconds?: number };

/** Runs a program that prints one JSON line last. */
export function measure(program: string, args: readonly string[]): Measured {
  const out = execFileSync(program, args, {
    encoding: "utf8",
    cwd: root,
    stdio: ["ignore", "pipe", "ignore"],
    maxBuffer: 1 << 26,
  });
  return JSON.parse(out.trim().split("\n").at(-1)!) as Measured;
}

/** The same of `lowrank bench`. */
export const ours = (...args: string[]) => measure(process.execPath, ["dist/cli/main.js", "bench", ...args]);
