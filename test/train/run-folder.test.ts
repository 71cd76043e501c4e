/** The output folder of a run whose "training" is arithmetic: what it saves, keeps, restores and refuses, and which failures it reports. */
import { cpSync, readdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it, vi } from "vitest";
import { writeFolder } from "../../src/io/durable.js";
import { verifyFolder } from "../../src/io/manifest.js";
import { resolveArguments } from "../../src/train/arguments.js";
import type { StepEvent } from "../../src/train/events.js";
import { RunFolder, type RunFolderOptions } from "../../src/train/run-folder.js";
import type { RunState } from "../../src/train/run-state.js";
import { errorOf, tempFolder } from "../io/files.js";
import { type Call, WatchedDisk } from "../io/watched-disk.js";

const watch = vi.hoisted(() => ({}) as { disk?: WatchedDisk | undefined });
vi.mock("node:fs/promises", async (original) =>
  (await vi.importActual<typeof import("../io/watched-disk.js")>("../io/watched-disk.js")).watchedFs(
    await original<object>(),
    watch,
  ),
);
afterEach(() => {
  delete watch.disk;
});

const tensor = (byteLength: number) => {
  const values = new Float32Array(4);
  const read = async () => values.slice();
  return { dtype: "float32", shape: [4], byteLength, values, read, upload: (from: Float32Array) => values.set(from) };
};
const identity = { dataset: "d", isa: "i", bf16: false, base: null, parameters: "p" };
const result = { steps: 1, trainLoss: 1, runtimeSeconds: 1, skippedSteps: 0 };

/** A run in `dir`; sizes in bytes are what it says it needs. */
async function open(dir: string, args: object = {}, other: object = {}, sizes = { weights: 64, state: 16 }) {
  const optimizer = { arena: { values: tensor(sizes.state) }, state: { exp_avg: tensor(16) } };
  const options = {
    args: resolveArguments({ outputDir: dir, saveTotalLimit: null, ...args }),
    config: { learning_rate: 1 },
    tokenizer: undefined,
    chatTemplate: undefined,
    trainable: {
      byteLength: sizes.weights,
      write: (to: { file(name: string, text: string): unknown }) => to.file("weights", "w"),
    },
    optimizer,
    allowChange: [],
    identity,
    ...other,
  } as unknown as RunFolderOptions;
  const folder = await RunFolder.open(dir, options);
  const found = await folder.resume().catch(async (error) => {
    await folder.close();
    throw error;
  });
  const state: RunState = found?.state ?? {
    ...{ step: 0, trainedTokens: 0, targetTokens: 0, lossSum: 0, runtimeSeconds: 0, skippedSteps: 0 },
    ...{ bestMetric: null, bestGlobalStep: null, logHistory: [], identity },
  };
  const { values } = optimizer.arena.values;
  const step = async () => {
    state.step++;
    values.fill(state.step);
    const event = { step: state.step, epoch: 1, loss: 1, gradNorm: 1, lr: 1, tokensPerSecond: 1, etaSeconds: 1 };
    await folder.log(state, event as StepEvent, 9);
  };
  const save = (...resumable: [boolean?]) => folder.save(state, 9, 1, ...resumable);
  const finish = (more: object = {}) => folder.finish(state, { ...result, ...more } as never, 9, 1);
  return { folder, found, state, values, notes: found?.notes ?? [], step, save, finish, close: () => folder.close() };
}
/** A folder with checkpoints of these steps. */
async function ran(steps: number[], args: object = {}): Promise<string> {
  const dir = join(tempFolder(), "run");
  const run = await open(dir, args);
  for (const at of steps) {
    while (run.state.step < at) await run.step();
    await run.save();
  }
  await run.close();
  return dir;
}
const checkpoints = (dir: string) => readdirSync(dir).filter((name) => name.startsWith("checkpoint"));
const logged = (dir: string) =>
  readFileSync(join(dir, "trainer_log.jsonl"), "utf8")
    .split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line).current_steps);
const json = (path: string) => JSON.parse(readFileSync(path, "utf8"));

describe("a checkpoint", () => {
  it("is on the disk, with the log before it, when it is reported; older ones go after", async () => {
    const dir = await ran([1]);
    const run = await open(dir, { saveTotalLimit: 1, resumeFromCheckpoint: true });
    await run.step();
    watch.disk = new WatchedDisk();
    const path = await run.save();
    const { wrong, unsafe, running, calls } = watch.disk;
    delete watch.disk;
    expect({ wrong, unsafe, running }).toEqual({ wrong: [], unsafe: [], running: [] });
    const at = (name: string, of: string) => calls.findIndex((call) => call.name === name && call.path === of);
    expect(at("sync", join(dir, "trainer_log.jsonl"))).toBe(0);
    expect(calls.findLastIndex((call) => call.name === "sync" && call.path === dir)).toBeGreaterThan(
      at("rename", join(dir, "checkpoint-1")),
    );
    expect(path).toBe(join(dir, "checkpoint-2"));
    expect(checkpoints(dir)).toEqual(["checkpoint-2"]);
    await run.close();
  });

  it("holds what a resume needs, or the model alone where that is asked", async () => {
    const dir = join(tempFolder(), "run");
    const run = await open(dir, { saveOnlyModel: true });
    await run.step();
    const model = ["manifest.json", "trainer_state.json", "training_args.json", "weights"];
    expect(readdirSync(await run.save()).sort()).toEqual(model);
    await run.step();
    expect(readdirSync(await run.save(true)).sort()).toEqual(["lowrank_state.json", ...model, "optimizer.safetensors"].sort());
    await run.close();
    expect(readdirSync(join(await ran([1]), "checkpoint-1"))).toContain("optimizer.safetensors");
  });

  it("is refused before anything is written where the disk is too small for weights and state", async () => {
    const refused = async (args: object, sizes: { weights: number; state: number }) => {
      const dir = join(tempFolder(), "run");
      const run = await open(dir, args, {}, sizes);
      const error = await errorOf(run.save()).finally(() => run.close());
      expect(checkpoints(dir)).toEqual([]);
      return error;
    };
    const sizes = { weights: 2 ** 52, state: 2 ** 50 };
    expect(await refused({}, sizes)).toMatchObject({ code: "NO_SPACE", details: { needed: 2 ** 52 + 2 ** 50 + 16 + 4096 } });
    expect((await refused({ saveOnlyModel: true }, sizes)).details.needed).toBe(2 ** 52);
    const run = await open(tempFolder(), { saveOnlyModel: true }, {}, { weights: 1, state: 2 ** 52 });
    await run.save();
    await run.close();
  });

  it("replaces those of an earlier run that is overwritten, once it is there", async () => {
    const dir = await ran([1, 2, 4]);
    const run = await open(dir, { overwriteOutputDir: true });
    expect(run.found).toBeUndefined();
    expect(logged(dir)).toEqual([]);
    await run.step();
    await run.step();
    expect(checkpoints(dir)).toHaveLength(3);
    await run.save();
    expect(checkpoints(dir)).toEqual(["checkpoint-2"]);
    await run.close();
    // A run that goes on keeps its own.
    const again = await open(dir, { resumeFromCheckpoint: true, overwriteOutputDir: true });
    await again.step();
    await again.save();
    await again.close();
    expect(checkpoints(dir)).toEqual(["checkpoint-2", "checkpoint-3"]);
  });

  it("counts for save_total_limit, also when the run ends", async () => {
    const dir = await ran([1, 2, 3]);
    const run = await open(dir, { resumeFromCheckpoint: true, saveTotalLimit: 1 });
    expect(checkpoints(dir)).toHaveLength(3);
    await run.finish();
    await run.close();
    expect(checkpoints(dir)).toEqual(["checkpoint-3"]);
  });
});

describe("the end of a run", () => {
  it("leaves its final files and results", async () => {
    const dir = await ran([1]);
    const run = await open(dir, { resumeFromCheckpoint: true });
    await run.finish();
    expect(json(join(dir, "all_results.json"))).not.toHaveProperty("eval_loss");
    expect(json(join(dir, "all_results.json"))).not.toHaveProperty("skipped_steps");
    await run.finish({ evalLoss: 2, skippedSteps: 3 });
    expect(json(join(dir, "all_results.json"))).toMatchObject({ epoch: 1, eval_loss: 2, skipped_steps: 3 });
    expect(await verifyFolder(dir)).toMatchObject({
      ok: true,
      manifest: { step: 1, configHash: expect.stringMatching(/^[0-9a-f]{64}$/) },
    });
    expect(readFileSync(join(dir, "weights"), "utf8")).toBe("w");
    await run.close();
    await run.close();
    expect(readdirSync(dir).filter((name) => name.startsWith(".lowrank"))).toEqual([]);
  });
});

describe("resuming", () => {
  it("restores the newest whole checkpoint, says what it passed over, and drops the log behind it", async () => {
    const dir = await ran([1, 2, 4]);
    truncateSync(join(dir, "checkpoint-4/weights"), 0);
    const run = await open(dir, { resumeFromCheckpoint: true });
    expect(run.state.step).toBe(2);
    expect([...run.values]).toEqual([2, 2, 2, 2]);
    expect(logged(dir)).toEqual([1, 2]);
    expect(run.notes).toEqual([
      expect.stringMatching(/^Passed over .*checkpoint-4: weights has 0 bytes/),
      `Continuing from ${join(dir, "checkpoint-2")} at step 2`,
    ]);
    await run.close();
  });

  it("takes the checkpoint it is given, if it can be trusted", async () => {
    const dir = await ran([1, 2, 3]);
    const run = await open(dir, { resumeFromCheckpoint: join(dir, "checkpoint-1") });
    expect([run.state.step, ...run.values]).toEqual([1, 1, 1, 1, 1]);
    await run.close();
    truncateSync(join(dir, "checkpoint-2/weights"), 0);
    const from = (name: string) => errorOf(open(dir, { resumeFromCheckpoint: join(dir, name) }));
    expect(await from("checkpoint-2")).toMatchObject({
      code: "CHECKPOINT",
      message: expect.stringContaining("cannot be trusted: weights"),
    });
    expect(await from("checkpoint-9")).toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringContaining("there is no folder"),
    });
    for (const name of checkpoints(dir)) truncateSync(join(dir, name, "weights"), 0);
    expect(await errorOf(open(dir, { resumeFromCheckpoint: true }))).toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringContaining("no checkpoint that verifies"),
    });
  });

  it("refuses another run", async () => {
    const dir = await ran([1]);
    const optimizer = { arena: { values: tensor(16) }, state: { exp_avg: tensor(16), exp_avg_sq: tensor(16) } };
    expect((await errorOf(open(dir, { resumeFromCheckpoint: true }, { optimizer }))).message).toContain("another optimizer");
    const other = { identity: { ...identity, dataset: "another" } };
    const error = await errorOf(open(dir, { resumeFromCheckpoint: true }, other));
    expect(error).toMatchObject({ code: "INVALID_CONFIG", message: expect.stringContaining('dataset: "d" → "another"') });
    const run = await open(dir, { resumeFromCheckpoint: true }, { ...other, allowChange: ["dataset"] });
    expect(run.notes).toContain('Changed since the checkpoint: dataset: "d" → "another"');
    await run.close();
  });
});

describe("opening", () => {
  it("finishes final files whose process ended while they were put in place, or says that they are lost", async () => {
    const cut = async () => {
      const dir = tempFolder();
      await writeFolder(dir, (to) => to.file("weights", "old"));
      const next = join(tempFolder(), "n");
      await writeFolder(next, (to) => to.file("weights", "new"));
      cpSync(next, join(dir, ".lowrank-commit"), { recursive: true });
      return dir;
    };
    const dir = await cut();
    await (await open(dir, { overwriteOutputDir: true })).close();
    expect(readFileSync(join(dir, "weights"), "utf8")).toBe("new");
    const lost = await cut();
    truncateSync(join(lost, ".lowrank-commit/weights"), 1);
    truncateSync(join(lost, "weights"), 1);
    expect((await errorOf(open(lost, { overwriteOutputDir: true }))).code).toBe("CHECKPOINT");
    expect(readdirSync(lost)).not.toContain(".lowrank.lock");
  });

  it("is refused for files of another run, and then gives its lock back or says that it cannot", async () => {
    const dir = tempFolder();
    writeFileSync(join(dir, "mine"), "");
    expect((await errorOf(open(dir))).code).toBe("INVALID_CONFIG");
    expect(readdirSync(dir)).toEqual(["mine"]);
    watch.disk = new WatchedDisk(({ name, path }) => name === "rm" && path.endsWith(".lowrank.lock"));
    expect((await errorOf(open(dir))).code).toBe("CHECKPOINT");
  });
});

describe("a failure is reported", () => {
  const fails = async (work: (run: Awaited<ReturnType<typeof open>>) => Promise<unknown>, which: (call: Call) => boolean) => {
    const dir = await ran([1, 2]);
    const run = await open(dir, { resumeFromCheckpoint: true, saveTotalLimit: 1 });
    await run.step();
    watch.disk = new WatchedDisk(which);
    const error = await errorOf(work(run));
    delete watch.disk;
    await run.close().catch(() => {});
    expect(error.code).toBe("CHECKPOINT");
    return dir;
  };
  const of = (name: string, path: RegExp) => (call: Call) => call.name === name && path.test(call.path);

  it.each([
    ["of the log", of("sync", /trainer_log/), ["checkpoint-1", "checkpoint-2"]],
    ["of the weights", of("write", /weights/), ["checkpoint-1", "checkpoint-2"]],
    ["of the optimizer's state", of("write", /optimizer/), ["checkpoint-1", "checkpoint-2"]],
    ["of removing older ones", of("rename", /checkpoint-1$/), ["checkpoint-1", "checkpoint-3"]],
  ])("while saving: %s", async (_, which, left) => {
    expect(checkpoints(await fails((run) => run.save(), which)).sort()).toEqual(left);
  });

  it.each([
    ["of removing older ones", of("rename", /checkpoint-1$/)],
    ["of the final files", of("sync", /weights$/)],
    ["of the results", ({ second }: Call) => /all_results/.test(String(second))],
  ])("while finishing: %s", async (_, which) => {
    await fails((run) => run.finish(), which);
  });

  it.each([
    ["of the log", of("sync", /trainer_log/)],
    ["of the lock", of("rm", /\.lowrank\.lock$/)],
  ])("while closing: %s", async (_, which) => {
    await fails((run) => run.close(), which);
  });

  it("of removing what an overwritten run left", async () => {
    const dir = await ran([1]);
    const run = await open(dir, { overwriteOutputDir: true });
    await run.step();
    await run.step();
    watch.disk = new WatchedDisk(of("rename", /checkpoint-1$/));
    expect((await errorOf(run.save())).code).toBe("CHECKPOINT");
    delete watch.disk;
    await run.close();
  });
});
