import { execFileSync } from "node:child_process";
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync } from "node:fs";
import { cpus } from "node:os";
import { basename, join } from "node:path";

/** What is true of everything that one command measured. */
export interface Circumstances {
  /** The bench and its options, paths by their last name only. */
  command: string;
  when: string;
  /** A commit; with `+` behind it where files differed from it. */
  commit: string;
  machine: string;
  cores: number;
  node: string;
}

/** A row that a bench printed, and where it was measured. */
export type HistoryRow = Circumstances & { kind: string } & Record<string, unknown>;

const root = join(import.meta.dirname, "..");
export const RESULTS = join(import.meta.dirname, "results");

export function circumstances(args: readonly string[]): Circumstances {
  const git = (...command: string[]) => execFileSync("git", command, { cwd: root, encoding: "utf8" }).trim();
  const changed = git("status", "--porcelain", "--", "native", "src", "package.json", "package-lock.json") !== "";
  return {
    command: args.map((arg) => basename(arg)).join(" "),
    when: new Date().toISOString().slice(0, 19),
    commit: git("rev-parse", "--short=10", "HEAD") + (changed ? "+" : ""),
    machine: machine(),
    cores: cpus().length,
    node: process.version,
  };
}

/** The processor by name; on Linux with its family and model too, since virtual machines give many the same name. */
function machine(): string {
  const name = cpus()[0]?.model ?? "unknown";
  const told = existsSync("/proc/cpuinfo") ? readFileSync("/proc/cpuinfo", "utf8") : "";
  const of = (field: string) => new RegExp(`^${field}\\s*: (\\d+)$`, "m").exec(told)?.[1];
  return of("cpu family") ? `${name}, family ${of("cpu family")} model ${of("model")}` : name;
}

/** Adds rows to the history, one file a bench. */
export function record(bench: string, rows: readonly HistoryRow[]): void {
  mkdirSync(RESULTS, { recursive: true });
  appendFileSync(join(RESULTS, `bench-${bench}.jsonl`), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
}

/** Every row on record, oldest first in each file. */
export function history(folder = RESULTS): HistoryRow[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((name) => /^bench-.*\.jsonl$/.test(name))
    .sort()
    .flatMap((name) => readFileSync(join(folder, name), "utf8").split("\n"))
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as HistoryRow);
}
