/**
 * Takes one step or check of the save path away at a time, in a copy of the project, and runs the unit tests that should notice,
 * cheapest first. A mutant that hangs them is noticed. Ends with 1 when one survives, or when the tests fail without any.
 * node test/faults/mutations.mjs [--list] [--only REGEX] [--shard I/N]
 */
import { execFileSync, spawn } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { EQUIVALENT } from "./equivalent.mjs";
import { mutants } from "./mutants.mjs";

const root = join(import.meta.dirname, "../..");
/** The save path; of the run folder, what saves, prunes, locks and chooses checkpoints. */
const FILES = ["io/durable", "io/folders", "io/settle", "io/lock", "io/manifest", "io/space", "io/json-log", "train/checkpoints", "train/run-folder"];
const RUN_FOLDER = ["open", "resume", "save", "finish", "prune", "newest", "close", "verified"];
const io = (name) => `test/io/${name}.test.ts`;
const CALLS = { name: "each call failing", tests: [io("save-calls")] };
const STAGES = [
  { name: "fast unit tests", tests: [io("odd-systems"), io("lock-space")] },
  { name: "tests of the run folder", tests: ["test/train/run-folder.test.ts"], only: /^train|json-log/ },
  { name: "tests of damage and locks", tests: [io("damage"), io("durable")] },
  CALLS,
];

const option = (name) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : undefined);
const only = new RegExp(option("--only") ?? ".");
const [shard, shards] = (option("--shard") ?? "1/1").split("/").map(Number);
const sources = new Map(FILES.map((file) => [file, readFileSync(join(root, `src/${file}.ts`), "utf8")]));
const every = [...sources]
  .flatMap(([file, text]) => mutants(file, text))
  .filter(({ file, within }) => file !== "train/run-folder" || RUN_FOLDER.includes(within));
const unknown = Object.keys(EQUIVALENT).filter((key) => !every.some((mutant) => mutant.key === key));
if (unknown.length > 0) throw new Error(`the table of equivalents names what is no mutant: ${unknown.join("\n")}`);
const all = every.filter(({ key, name }, i) => !(key in EQUIVALENT) && only.test(name) && i % shards === shard - 1);
if (process.argv.includes("--list")) {
  for (const { name } of all) console.log(name);
  console.log(`${all.length} mutants, ${Object.keys(EQUIVALENT).length} equivalent ones left out`);
  process.exit();
}

const commit = execFileSync("git", ["describe", "--always", "--dirty"], { cwd: root, encoding: "utf8" }).trim();
// In memory where there is such a place: the tests fsync thousands of times, and know by themselves what a disk would have lost.
const copy = mkdtempSync(join(existsSync("/dev/shm") ? "/dev/shm" : tmpdir(), "lowrank-mutations-"));
mkdirSync(join(copy, "tmp"));
for (const name of ["src", "test", "native", "package.json", "tsconfig.json", "vitest.config.ts"])
  cpSync(join(root, name), join(copy, name), { recursive: true });
for (const name of ["node_modules", "build", "assets"]) symlinkSync(join(root, name), join(copy, name));
const changed = new Set();
const put = (file, text) => {
  writeFileSync(join(copy, `src/${file}.ts`), text);
  changed.add(join(copy, `src/${file}.ts`));
};

const env = { ...process.env, TMPDIR: join(copy, "tmp") };
const running = new Set();
/** A process in a group of its own, so that what hangs can be ended with all that it started. */
function start(args, stdio) {
  const child = spawn(process.execPath, args, { cwd: copy, env, stdio, detached: true });
  running.add(child);
  return child;
}
function end(child) {
  running.delete(child);
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {} // all gone
}
function cleanUp() {
  for (const child of running) end(child);
  rmSync(copy, { recursive: true, force: true, maxRetries: 5 }); // who is being ended may still write
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
  process.once(signal, () => {
    cleanUp();
    process.exit(130);
  });

/** What a child says, or its exit code; undefined when it hangs. */
async function answer(child, limit) {
  let clock;
  let settle;
  const said = await new Promise((resolve) => {
    settle = resolve;
    clock = setTimeout(resolve, limit);
    child.once("message", resolve).once("exit", resolve);
  });
  clearTimeout(clock);
  child.off("message", settle).off("exit", settle);
  return said;
}

let runner;
/** What fails first of unit tests, or "": in a process that stays, unless they hang it for `limit` milliseconds. */
async function failureOf({ tests }, limit) {
  if (runner === undefined) {
    runner = start([join(copy, "test/faults/unit-runner.mjs")], ["ignore", "ignore", "ignore", "ipc"]);
    await answer(runner, 120_000);
  }
  runner.send({ tests: tests.map((file) => join(copy, file)), changed: [...changed] });
  const failure = await answer(runner, limit);
  changed.clear();
  if (typeof failure === "string") return failure;
  end(runner);
  runner = undefined;
  return "it hangs";
}

/** How long each stage may take, from what it takes on this machine without any mutation. */
const limits = new Map();
/** What fails without any mutation would notice everything: it must pass first. */
async function assertSound(stage) {
  const started = Date.now();
  const failure = await failureOf(stage, 300_000);
  if (failure) throw new Error(`${stage.name} fail without any mutation: ${failure}`);
  limits.set(stage, 20_000 + 5 * (Date.now() - started));
}
/** The stage that notices a mutant, and how. */
async function noticing({ file, text, ignoresError }) {
  for (const stage of ignoresError ? [CALLS, ...STAGES.filter((other) => other !== CALLS)] : STAGES) {
    if (stage.only && !stage.only.test(file)) continue;
    if (!limits.has(stage)) await assertSound(stage);
    put(file, text);
    const failure = await failureOf(stage, limits.get(stage));
    put(file, sources.get(file));
    if (failure) return { by: stage.name, failure };
  }
  return { by: "nothing", failure: "" };
}

const tally = new Map();
const survivors = [];
const begin = Date.now();
const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(0)} s`;
try {
  for (const mutant of all) {
    const { name } = mutant;
    const started = Date.now();
    const { by, failure } = await noticing(mutant);
    tally.set(by, (tally.get(by) ?? 0) + 1);
    if (by === "nothing") survivors.push(name);
    console.log(`${by === "nothing" ? "SURVIVED" : `noticed by ${by}`} (${seconds(started)}): ${name}`);
    if (failure) console.log(`    ${failure.split("\n")[0].slice(0, 150)}`);
  }
  for (const stage of limits.keys()) await assertSound(stage); // nor may one have begun to fail by itself
} finally {
  cleanUp();
}
const counts = [...tally].map(([by, count]) => `${count} noticed by ${by}`).join(", ");
console.log(`\n${all.length} mutants (shard ${shard}/${shards}) in ${seconds(begin)}: ${counts}`);
console.log(`${Object.keys(EQUIVALENT).length} equivalent ones left out; commit ${commit}, nothing drawn at random`);
for (const name of survivors) console.log(`SURVIVED: ${name}`);
process.exitCode = survivors.length > 0 ? 1 : 0;
