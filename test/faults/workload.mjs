/**
 * What the fault tests run in processes of their own, on dist/: how a folder is prepared, the work during which something goes wrong,
 * and what must be true of the folder afterwards. Everything is deterministic, so "right" means equal to files of an undisturbed run.
 */
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const dist = process.env.LOWRANK_DIST ?? join(import.meta.dirname, "../../dist");
const load = (path) => import(pathToFileURL(join(dist, path)).href);
const { RunFolder } = await load("train/run-folder.js");
const { resolveArguments } = await load("train/arguments.js");
const { writeSafetensors } = await load("io/safetensors-write.js");
const { settleFolder } = await load("io/settle.js");
const { verifyFolder } = await load("io/manifest.js");
export const { LowrankError } = await load("errors.js");

const SIZE = 300;
const TOTAL_STEPS = 6;
const tensor = (size) => {
  const values = new Float32Array(size);
  return { dtype: "float32", shape: [size], byteLength: size * 4, values, read: async () => values.slice(), upload: (from) => values.set(from) };
};
const bytesOf = ({ values }) => new Uint8Array(values.slice().buffer);

/** A run whose "training" is arithmetic: step s follows from step s - 1 alone, so a wrong start shows in everything after it. */
export async function run(dir, { until, resume = true, keep = 2, announce = () => {} }) {
  const optimizer = { arena: { values: tensor(SIZE) }, state: { exp_avg: tensor(SIZE), header: tensor(4) } };
  const { values } = optimizer.arena;
  const folder = await RunFolder.open(dir, {
    args: resolveArguments({ outputDir: dir, saveTotalLimit: keep, resumeFromCheckpoint: resume, maxSteps: TOTAL_STEPS }),
    config: { learning_rate: 1 },
    tokenizer: undefined,
    chatTemplate: "{{ messages }}",
    trainable: {
      byteLength: 8192,
      write: async (to) => {
        await to.file("adapter_config.json", "{}");
        await to.file("adapter_model.safetensors", (sink) =>
          writeSafetensors(sink, { format: "pt" }, [{ name: "w", dtype: "F32", shape: [SIZE], bytes: () => bytesOf(values) }]),
        );
      },
    },
    optimizer,
    allowChange: [],
    identity: { dataset: "d", isa: "i", bf16: false, base: null, parameters: "p" },
  });
  try {
    const resumed = await folder.resume();
    const state = resumed?.state ?? {
      step: 0, trainedTokens: 0, targetTokens: 0, lossSum: 0, runtimeSeconds: 0, skippedSteps: 0, bestMetric: null,
      bestGlobalStep: null, logHistory: [], identity: { dataset: "d", isa: "i", bf16: false, base: null, parameters: "p" },
    };
    const from = state.step;
    while (state.step < until) {
      const step = ++state.step;
      state.runtimeSeconds = step;
      values.values.forEach((value, i) => {
        values.values[i] = (value * 3 + i + step) % 1009;
      });
      optimizer.state.exp_avg.values.fill(step);
      const event = { step, epoch: step, loss: 1 / step, gradNorm: 1, lr: 1, tokensPerSecond: 1, etaSeconds: 1 };
      await folder.log(state, event, TOTAL_STEPS);
      await folder.save(state, TOTAL_STEPS, step);
      announce(`saved ${step}`);
    }
    const result = { steps: state.step, trainLoss: 1, runtimeSeconds: state.step };
    await folder.finish(state, result, TOTAL_STEPS, state.step);
    announce(`finished ${state.step}`);
    return { from, notes: resumed?.notes ?? [] };
  } finally {
    await folder.close();
  }
}

/** All files of a folder, name to content. */
export function tree(folder) {
  const names = existsSync(folder) ? readdirSync(folder, { recursive: true, withFileTypes: true }) : [];
  return new Map(
    names.filter((entry) => !entry.isDirectory()).map((entry) => {
      const path = join(entry.parentPath, entry.name);
      return [path.slice(folder.length + 1), readFileSync(path, "latin1")];
    }),
  );
}

function fail(what) {
  throw new Error(what);
}

/** How two folders differ, in words; empty when they are equal. */
function difference(found, expected, ignored = () => false) {
  const [a, b] = [found, expected].map(tree);
  const names = new Set([...a.keys(), ...b.keys()].filter((name) => !ignored(name)));
  return [...names].filter((name) => a.get(name) !== b.get(name)).map((name) => `${name} ${a.has(name) ? (b.has(name) ? "differs" : "is extra") : "is missing"}`).join(", ");
}

const isCheckpoint = (name) => /^checkpoint-/.test(name);
const isOwn = (name) => name.split("/").some((part) => part.startsWith(".lowrank"));
/** The last number announced behind a word. */
const last = (announced, word) => Math.max(0, ...announced.filter((text) => text.startsWith(`${word} `)).map((text) => Number(text.split(" ")[1])));

const runScenario = {
  /** Two steps, then finished; the work is to go on to step 3: resume, log, save, prune, finish. */
  async reference(at) {
    for (const until of [2, 3, 4]) await run(join(at, `until-${until}`), { until, resume: false, keep: null });
    await run(join(at, "before", "run"), { until: 2, resume: false });
  },
  warmUp: async () => (await load("native/load.js")).loadAddon(),
  work: (dir, announce) => run(join(dir, "run"), { until: 3, announce }),
  async check(dir, at, announced) {
    const folder = join(dir, "run");
    const saved = Math.max(2, last(announced, "saved"));
    const finished = Math.max(2, last(announced, "finished"));
    // The final files: those of step 2 or 3, whole.
    await settleFolder(folder);
    const verdict = await verifyFolder(folder);
    if (!verdict.ok || verdict.manifest.step < finished) fail(`final files: ${verdict.problems} ${verdict.manifest?.step}`);
    const final = difference(folder, join(at, `until-${verdict.manifest.step}`), (name) => isCheckpoint(name) || isOwn(name) || ["trainer_log.jsonl", "all_results.json"].includes(name));
    if (final) fail(`final files of step ${verdict.manifest.step}: ${final}`);
    const result = JSON.parse(readFileSync(join(folder, "all_results.json"), "utf8"));
    if (result.epoch < finished) fail("all_results.json is older than what was announced");
    const lines = readFileSync(join(folder, "trainer_log.jsonl"), "utf8").split("\n").slice(0, -1);
    for (let i = 0; i < saved; i++) if (JSON.parse(lines[i] ?? "{}").current_steps !== i + 1) fail(`log line ${i + 1} of ${saved} is ${lines[i]}`);
    // Going on: from what was announced or newer, to what an undisturbed run makes, with nothing left over.
    const { from } = await run(folder, { until: 4 });
    if (from < saved) fail(`step ${saved} was announced, the run went on from ${from}`);
    const rest = difference(folder, join(at, "until-4"), (name) => isCheckpoint(name) && !/^checkpoint-[34]\//.test(name));
    if (rest) fail(`after going on from ${from}: ${rest}`);
    const names = readdirSync(folder).filter((name) => isCheckpoint(name) || isOwn(name)).join();
    if (names !== "checkpoint-3,checkpoint-4") fail(`after going on from ${from} there are ${names}`);
  },
};

/** The first step of a run in a folder that does not exist, nor the one above it. */
const newRunScenario = {
  async reference(at) {
    for (const until of [1, 2]) await run(join(at, `until-${until}`), { until, resume: false });
  },
  warmUp: runScenario.warmUp,
  work: (dir, announce) => run(join(dir, "new", "run"), { until: 1, resume: false, announce }),
  async check(dir, at, announced) {
    const folder = join(dir, "new", "run");
    const saved = last(announced, "saved");
    const resume = tree(folder).has("checkpoint-1/manifest.json");
    const { from } = await run(folder, { until: 2, resume });
    if (from < saved) fail(`step ${saved} was announced, the run went on from ${from}`);
    const rest = difference(folder, join(at, "until-2"));
    if (rest) fail(`after going on from ${from}: ${rest}`);
  },
};

/** Saving to `dir/out`, where a save A may lie already. `save(out, which)` writes A or B. */
function exportScenario(save, over) {
  const outOf = (dir) => (over ? join(dir, "out") : join(dir, "new", "out"));
  return {
    async reference(at) {
      for (const which of ["A", "B"]) await save(join(at, which), which);
      if (over) cpSync(join(at, "A"), join(at, "before", "out"), { recursive: true });
    },
    warmUp: async () => {
      const scratch = mkdtempSync(join(tmpdir(), "lowrank-warm-"));
      for (const which of ["A", "B"]) await save(join(scratch, "out"), which);
      rmSync(scratch, { recursive: true });
    },
    async work(dir, announce) {
      await save(outOf(dir), "B");
      announce("saved 1");
    },
    async check(dir, at, announced) {
      const out = outOf(dir);
      const states = [...(over ? ["A"] : ["nothing"]), "B"].slice(announced.length > 0 ? 1 : 0);
      await settleFolder(out);
      const differences = states.map((which) => difference(out, join(at, which), isOwn));
      if (!differences.includes("")) fail(`the folder is neither of ${states}: ${differences.join(" / ")}`);
      await save(out, "B");
      const rest = difference(out, join(at, "B")) || readdirSync(dirname(out)).filter((name) => name !== "out").join();
      if (rest) fail(`after saving again: ${rest}`);
    },
  };
}

let models;
/** A tiny model with an adapter merged into it, and one that still has two adapters. */
async function tinyModels() {
  const { AutoModelForCausalLM } = await load("models/registry.js");
  const { getPeftModel } = await load("peft/peft-model.js");
  const { LoraConfig } = await load("peft/config.js");
  const lora = { r: 2, loraAlpha: 4, targetModules: ["q_proj"], initLoraWeights: false };
  const base = () => AutoModelForCausalLM.fromPretrained(join(import.meta.dirname, "../golden/cases/train/bases/llama"), { dtype: "float32" });
  const merged = await getPeftModel(await base(), lora).mergeAndUnload();
  const adapters = getPeftModel(await base(), lora);
  adapters.addAdapter("other/one".replace("/", "-"), new LoraConfig(lora), { seed: 7 });
  return { merged, adapters };
}
async function saveModel(out, which) {
  models ??= await tinyModels();
  await models.merged.savePretrained(out, which === "A" ? { dtype: "bfloat16" } : { maxShardBytes: 150_000 });
}
async function saveAdapters(out, which) {
  models ??= await tinyModels();
  await models.adapters.savePretrained(out, which === "A" ? { selectedAdapters: ["default"] } : {});
}

export const scenarios = {
  run: runScenario,
  "a new run": newRunScenario,
  "export to a new folder": exportScenario(saveModel, false),
  "export over an older one": exportScenario(saveModel, true),
  "adapters over older ones": exportScenario(saveAdapters, true),
};
