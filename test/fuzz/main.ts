/**
 * `npm run fuzz -- [--minutes M | --mutants N] [--format NAME] [--seed S] [--keep FOLDER]`: opens seeded mutants of every format in child
 * processes. Mutant i of a run is that of seed S + i, so any one is repeated by `--format NAME --seed S+i --mutants 1`.
 */
import { type ChildProcess, fork } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { ChildMessage } from "./child.js";
import { FORMATS } from "./formats/index.js";
import { mutantOf, writeFiles } from "./mutant.js";

const { values } = parseArgs({
  options: {
    minutes: { type: "string" },
    mutants: { type: "string" },
    format: { type: "string" },
    seed: { type: "string" },
    keep: { type: "string" },
  },
});
/** A mutant that has not ended by then hangs. */
const STUCK_MS = 20_000;
/** Mutants of one child: what leaks slowly shows, and the seconds it takes to begin count little. */
const BATCH = 500;

const names = values.format === undefined ? Object.keys(FORMATS) : values.format.split(",");
const unknown = names.filter((name) => !FORMATS[name]);
if (unknown.length > 0) throw new Error(`unknown format ${unknown.join(", ")}; known are ${Object.keys(FORMATS).join(", ")}`);
const first = Number(values.seed ?? 1);
const most =
  values.mutants === undefined ? (values.minutes === undefined ? 1000 : Number.POSITIVE_INFINITY) : Number(values.mutants);
const deadline = values.minutes === undefined ? Number.POSITIVE_INFINITY : Date.now() + Number(values.minutes) * 60_000;
const keep = values.keep ?? "fuzz-failures";
const reports: Promise<void>[] = [];

interface Total {
  mutants: number;
  accepted: number;
  refused: number;
  codes: Record<string, number>;
  failures: number;
  /** The most that one mutant took. */
  seconds: number;
  bytes: number;
  next: number;
}
const totals = new Map<string, Total>(
  names.map((name) => [name, { mutants: 0, accepted: 0, refused: 0, codes: {}, failures: 0, seconds: 0, bytes: 0, next: first }]),
);

/** Runs one child; resolves with the seed it got stuck or died at, if it did. */
function batch(name: string, from: number, count: number, total: Total): Promise<void> {
  return new Promise((resolve) => {
    let at = from;
    let finished = false;
    let timer: NodeJS.Timeout;
    const child: ChildProcess = fork(
      join(import.meta.dirname, "child.ts"),
      [name, String(from), String(count), String(deadline)],
      {
        execArgv: ["--import", "tsx", "--expose-gc", "--max-semi-space-size=4"],
        env: { ...process.env, HF_HUB_OFFLINE: "1" },
        stdio: ["ignore", "ignore", "inherit", "ipc"],
      },
    );
    const watch = (ms: number) => {
      clearTimeout(timer);
      timer = setTimeout(() => child.kill("SIGKILL"), ms);
    };
    watch(60_000); // to begin with, it loads the library
    child.on("message", ({ begin, failed, done }: ChildMessage) => {
      watch(STUCK_MS);
      if (begin !== undefined) {
        at = begin;
        total.mutants++;
      }
      if (failed) reports.push(report(name, failed.seed, failed.problems, total));
      if (done) {
        finished = true;
        total.accepted += done.accepted;
        total.refused += done.refused;
        total.seconds = Math.max(total.seconds, done.seconds);
        total.bytes = Math.max(total.bytes, done.bytes);
        for (const [code, n] of Object.entries(done.codes)) total.codes[code] = (total.codes[code] ?? 0) + n;
      }
    });
    child.on("exit", async (code, signal) => {
      clearTimeout(timer);
      if (!finished) {
        await report(
          name,
          at,
          [signal === "SIGKILL" ? `stuck for ${STUCK_MS / 1000} s` : `the process ended: ${signal ?? code}`],
          total,
        );
        if (at + 1 < from + count) return resolve(batch(name, at + 1, from + count - at - 1, total));
      }
      resolve();
    });
  });
}

async function report(name: string, seed: number, problems: string[], total: Total): Promise<void> {
  total.failures++;
  console.error(`${name} ${seed}: ${problems.join("; ")}\n  npm run fuzz -- --format ${name} --seed ${seed} --mutants 1`);
  if (total.failures > 50) return;
  const folder = join(keep, `${name}-${seed}`);
  mkdirSync(folder, { recursive: true });
  writeFiles(folder, mutantOf(await FORMATS[name]!(), seed));
  writeFileSync(join(folder, "REPEAT"), `npm run fuzz -- --format ${name} --seed ${seed} --mutants 1\n${problems.join("\n")}\n`);
}

/** The formats take turns, so that each has had its share whenever the time is up. */
function nextBatch(): [string, Total, number] | undefined {
  if (Date.now() > deadline) return undefined;
  const open = [...totals].filter(([, total]) => total.next < first + most);
  const [name, total] = open.sort(([, a], [, b]) => a.next - b.next)[0] ?? [];
  return name === undefined || total === undefined ? undefined : [name, total, Math.min(BATCH, first + most - total.next)];
}

async function worker(): Promise<void> {
  for (let job = nextBatch(); job; job = nextBatch()) {
    const [name, total, count] = job;
    const from = total.next;
    total.next += count;
    await batch(name, from, count, total);
  }
}

const began = performance.now();
await Promise.all(Array.from({ length: availableParallelism() }, worker));
await Promise.all(reports);
for (const [name, { mutants, accepted, refused, codes, failures, seconds, bytes }] of totals) {
  const list = Object.entries(codes).map(([code, n]) => `${code} ${n}`);
  const worst = `at most ${(seconds * 1000).toFixed(0)} ms CPU and ${(bytes / 2 ** 20).toFixed(0)} MB`;
  console.log(
    `${name.padEnd(11)} ${mutants} mutants from seed ${first}: ${failures} failures, ${worst}; ${accepted} accepted, ${refused} refused (${list.join(", ")})`,
  );
}
console.log(`${((performance.now() - began) / 1000).toFixed(0)} s`);
const failures = [...totals.values()].reduce((sum, total) => sum + total.failures, 0);
process.exit(failures > 0 ? 1 : 0);
