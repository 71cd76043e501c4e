/**
 * Takes one step or check of the save path away at a time and runs the tests that should notice, cheapest first.
 * node test/faults/mutations.mjs [--list] [--only REGEX] [--shard I/N]     ends with 1 when a mutant survives
 */
import { spawn } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import ts from "typescript";
import { EQUIVALENT } from "./equivalent.mjs";
import { mutants } from "./mutants.mjs";

const root = join(import.meta.dirname, "../..");
/** The save path; of the run folder, what saves, prunes, locks and chooses checkpoints. */
const FILES = ["io/durable", "io/folders", "io/settle", "io/lock", "io/manifest", "io/space", "io/json-log", "train/checkpoints", "train/run-folder"];
const RUN_FOLDER = ["open", "resume", "save", "finish", "prune", "newest", "close", "verified"];
const io = (name) => `test/io/${name}.test.ts`;
const STAGES = [
  { name: "fast unit tests", failure: unitFailure, tests: [io("odd-systems"), io("lock-space")] },
  { name: "tests of the run folder", failure: unitFailure, tests: ["test/train/run-folder.test.ts"], only: /^train/ },
  { name: "tests of damage and locks", failure: unitFailure, tests: [io("damage"), io("durable")] },
  { name: "each call failing", failure: unitFailure, tests: [io("save-calls")] },
  { name: "power cuts", failure: faultsFailure, tests: ["test/faults/power-cut.faults.ts"] },
  { name: "system calls", failure: faultsFailure, tests: ["test/faults/syscalls.faults.ts", "-t", "run|export over"] },
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

const copy = mkdtempSync(join(tmpdir(), "lowrank-mutations-"));
for (const name of ["src", "test", "dist", "native", "package.json", "tsconfig.json", "vitest.config.ts", "vitest.faults.config.ts"])
  cpSync(join(root, name), join(copy, name), { recursive: true });
for (const name of ["node_modules", "build", "assets"]) symlinkSync(join(root, name), join(copy, name));
const compilerOptions = { module: ts.ModuleKind.NodeNext, target: ts.ScriptTarget.ES2022 };
const changed = new Set();
const put = (file, text) => {
  writeFileSync(join(copy, `src/${file}.ts`), text);
  changed.add(join(copy, `src/${file}.ts`));
  writeFileSync(join(copy, `dist/${file}.js`), ts.transpileModule(text, { compilerOptions, fileName: `${file}.mts` }).outputText);
};

const env = { ...process.env, LOWRANK_CUTS: "1", LOWRANK_FLIPS: "40" };
/** A process in a group of its own, so that what hangs can be ended with all that it started. */
const start = (args, stdio) => spawn(process.execPath, args, { cwd: copy, env, stdio, detached: true });
const end = (child) => {
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {} // all gone
};
/** What a child says or ends with; undefined when it hangs. */
async function within(minutes, child, event) {
  let clock;
  let settle;
  const answer = await new Promise((resolve) => {
    settle = resolve;
    clock = setTimeout(resolve, minutes * 60_000);
    child.once(event, resolve).once("exit", resolve);
  });
  clearTimeout(clock);
  child.off(event, settle).off("exit", settle);
  return answer;
}

let runner;
/** What fails first of unit tests, or "": in a process that stays, unless they hang it. */
async function unitFailure(tests) {
  if (runner === undefined) {
    runner = start([join(copy, "test/faults/unit-runner.mjs")], ["ignore", "ignore", "ignore", "ipc"]);
    await within(2, runner, "message");
  }
  runner.send({ tests: tests.map((file) => join(copy, file)), changed: [...changed] });
  const failure = await within(2, runner, "message");
  changed.clear();
  if (typeof failure === "string") return failure;
  end(runner);
  runner = undefined;
  return "it hangs";
}
async function faultsFailure(tests) {
  const child = start([join(copy, "node_modules/vitest/vitest.mjs"), "run", "--bail", "1", "--config", "vitest.faults.config.ts", ...tests], "ignore");
  const code = await within(20, child, "exit");
  end(child);
  return code === 0 ? "" : tests[0];
}

const sound = new Set();
async function assertSound(stage) {
  const failure = await stage.failure(stage.tests);
  if (failure) throw new Error(`${stage.name} fail without any mutation: ${failure}`);
  sound.add(stage);
}
/** The stage that notices a mutant, and how. What fails without any mutation would notice everything: it must pass first. */
async function noticing(file, text) {
  for (const stage of STAGES) {
    if (stage.only && !stage.only.test(file)) continue;
    if (!sound.has(stage)) await assertSound(stage);
    put(file, text);
    const failure = await stage.failure(stage.tests);
    put(file, sources.get(file));
    if (failure) return { by: stage.name, failure };
  }
  return { by: "nothing", failure: "" };
}

const tally = new Map();
const begin = Date.now();
const seconds = (since) => `${((Date.now() - since) / 1000).toFixed(0)} s`;
try {
  for (const { file, name, text } of all) {
    const started = Date.now();
    const { by, failure } = await noticing(file, text);
    tally.set(by, (tally.get(by) ?? 0) + 1);
    console.log(`${by === "nothing" ? "SURVIVED" : `noticed by ${by}`} (${seconds(started)}): ${name}`);
    if (failure) console.log(`    ${failure.split("\n")[0].slice(0, 150)}`);
  }
  for (const stage of sound) await assertSound(stage); // nor may one have begun to fail by itself
} finally {
  if (runner) end(runner);
  rmSync(copy, { recursive: true, force: true });
}
const counts = [...tally].map(([by, count]) => `${count} noticed by ${by}`).join(", ");
console.log(`${all.length} mutants in ${seconds(begin)}: ${counts}`);
process.exitCode = tally.has("nothing") ? 1 : 0;
