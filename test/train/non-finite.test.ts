import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, describe, expect, it } from "vitest";
import { readJsonFile } from "../../src/io/json.js";
import { openSafetensors } from "../../src/io/safetensors.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { getPeftModel } from "../../src/peft/peft-model.js";
import { getDevice } from "../../src/tensor/device.js";
import type { TrainingArguments } from "../../src/train/arguments.js";
import type { TrainEvent } from "../../src/train/events.js";
import { errorOf, tempFolder } from "../io/files.js";
import { ARGS, collect, countingExamples, TINY } from "./tiny.js";

/** No example holds this id; its row of the embedding is spoiled. */
const POISON = 7;
const { kernels } = getDevice();
const gradStats = kernels.gradStats;
afterEach(() => {
  kernels.gradStats = gradStats;
});

interface Options {
  dtype?: "float32" | "bfloat16";
  /** Examples of which one token is the spoiled one. */
  poisoned?: readonly number[];
  value?: number;
  /** Steps (from 1) whose gradient gets an infinite value just before the optimizer looks at it. */
  spoiledGradients?: readonly number[];
  /** Steps whose loss becomes NaN there, while its gradient stays finite. */
  spoiledLosses?: readonly number[];
  /** The spoiled row is put right after the first evaluation. */
  heals?: boolean;
  args?: TrainingArguments;
  outputDir?: string;
  evaluates?: boolean;
  abortAt?: number;
}

/** Eight examples in their own order, two micro-batches of two each step: step k holds the examples 4k - 4 to 4k - 1, twice over. */
async function run(options: Options): Promise<{ events: TrainEvent[]; error: unknown; weights: string }> {
  const { dtype = "float32", poisoned = [], value = Number.NaN, spoiledGradients = [], spoiledLosses = [], outputDir } = options;
  await using model = await AutoModelForCausalLM.fromPretrained(TINY, { dtype });
  using row = model.model.embedTokens.weight.slice(POISON, POISON + 1);
  row.upload(new Float32Array(row.size).fill(value));
  const peft = getPeftModel(model, { r: 4, loraDropout: 0.1, targetModules: "all-linear" }, { seed: 5 });
  const dataset = countingExamples(8);
  for (const row of poisoned) dataset[row]!.inputIds[1] = POISON;
  const { arena } = peft.trainable;
  let step = 0;
  kernels.gradStats = (d, header, gradients, loss) => {
    step++;
    if (spoiledGradients.includes(step)) {
      using spoiled = arena.gradients!.slice(3, 4);
      spoiled.upload(Float32Array.of(Number.POSITIVE_INFINITY));
    }
    if (spoiledLosses.includes(step)) getDevice().addon.upload(loss, Float32Array.of(Number.NaN));
    gradStats(d, header, gradients, loss);
  };
  const args: TrainingArguments = {
    ...ARGS,
    disableShuffling: true,
    perDeviceTrainBatchSize: 2,
    gradientAccumulationSteps: 2,
    maxSteps: 4,
    saveSteps: 1,
    saveTotalLimit: null,
    weightDecay: 0.1,
    ...options.args,
    ...(outputDir !== undefined && { outputDir }),
  };
  const controller = new AbortController();
  const events: TrainEvent[] = [];
  let error: unknown;
  await collect(
    { model: peft, dataset, args, ...(options.evaluates && { evalDataset: dataset }) },
    controller.signal,
    (event) => {
      events.push(event);
      if (event.type === "eval" && options.heals) row.upload(new Float32Array(row.size).fill(0.1));
      if (event.type === "step" && event.step === options.abortAt) controller.abort("stop");
    },
  ).catch((caught) => {
    error = caught;
  });
  const weights = Buffer.from((await arena.values.readFloat32()).buffer).toString("base64");
  peft.unload();
  return { events, error, weights };
}

/** The optimizer's file of a checkpoint; of the header only the count of steps done. */
async function stateOf(outputDir: string, step: number): Promise<Record<string, string>> {
  const file = await openSafetensors(join(outputDir, `checkpoint-${step}`, "optimizer.safetensors"));
  try {
    const entries = [...file.tensors.keys()].map(async (name) => {
      const bytes = Buffer.from(await file.read(name));
      return [name, (name === "header" ? bytes.subarray(0, 8) : bytes).toString("base64")];
    });
    return Object.fromEntries(await Promise.all(entries));
  } finally {
    await file.close();
  }
}

const skippedOf = (events: readonly TrainEvent[]) =>
  events.flatMap((event) => (event.type === "step" && event.skipped ? [event.step] : []));

describe("a step whose loss or gradient is not finite", () => {
  it.each<[string, number[], Options]>([
    ["the loss of one micro-batch, NaN", [1, 3], { poisoned: [2] }],
    ["the loss of the other one, infinite", [2, 4], { poisoned: [4], value: Number.POSITIVE_INFINITY }],
    ["in bfloat16 products", [1, 3], { poisoned: [0], dtype: "bfloat16" }],
    ["a gradient alone, in the first step", [1], { spoiledGradients: [1] }],
    ["a gradient alone, in the last step", [4], { spoiledGradients: [4] }],
    ["a gradient alone, with bfloat16 products, twice in a row", [2, 3], { spoiledGradients: [2, 3], dtype: "bfloat16" }],
    ["a loss alone", [2], { spoiledLosses: [2] }],
    ["with sgd", [2], { spoiledGradients: [2], args: { optim: "sgd" } }],
  ])("%s: changes neither weights nor moments nor the count of steps", async (_, skipped, options) => {
    const outputDir = join(tempFolder(), "run");
    const { events, error } = await run({ ...options, outputDir });
    expect(error).toBeUndefined();
    expect(skippedOf(events)).toEqual(skipped);
    expect(events.filter((event) => event.type === "warning" && /^Step \d+: .* not finite/.test(event.message))).toHaveLength(
      skipped.length,
    );
    expect(events.at(-1)).toMatchObject({ type: "done", result: { steps: 4, skippedSteps: skipped.length } });
    for (let step = 2; step <= 4; step++) {
      const same = JSON.stringify(await stateOf(outputDir, step)) === JSON.stringify(await stateOf(outputDir, step - 1));
      expect(same, `step ${step}`).toBe(skipped.includes(step));
    }
    // The very first step leaves what it found: B zero, moments zero, no step counted.
    const first = await stateOf(outputDir, 1);
    expect(Buffer.from(first.header!, "base64").readBigInt64LE()).toBe(skipped.includes(1) ? 0n : 1n);
  });

  it("is null in all JSON, marked as skipped, counted in the result, and our readers take it", async () => {
    const outputDir = join(tempFolder(), "run");
    const { events } = await run({ poisoned: [4], outputDir, evaluates: true, args: { evalStrategy: "steps", evalSteps: 2 } });
    const printed = JSON.parse(JSON.stringify(events.find((event) => event.type === "step" && event.step === 2)));
    expect(printed).toMatchObject({ loss: null, gradNorm: null, skipped: true });
    const log = readFileSync(join(outputDir, "trainer_log.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
    expect(
      log.map((line) => [line.current_steps, "eval_loss" in line ? line.eval_loss : typeof line.loss, line.skipped]),
    ).toEqual([
      [1, "number", undefined],
      [2, "object", true],
      [2, null, undefined],
      [3, "number", undefined],
      [4, "object", true],
      [4, null, undefined],
    ]);
    for (const folder of [outputDir, join(outputDir, "checkpoint-4")]) {
      const state = await readJsonFile(join(folder, "trainer_state.json"));
      expect(state.log_history).toContainEqual(expect.objectContaining({ step: 2, loss: null, grad_norm: null, skipped: true }));
      expect(state.best_metric).toBeNull();
    }
    expect(await readJsonFile(join(outputDir, "checkpoint-4", "lowrank_state.json"))).toMatchObject({ skippedSteps: 2 });
    expect(await readJsonFile(join(outputDir, "all_results.json"))).toMatchObject({ skipped_steps: 2 });
  });

  it("makes no evaluation the best one", async () => {
    const args = { evalStrategy: "steps" as const, evalSteps: 2, maxSteps: 3 };
    const { events } = await run({ poisoned: [4], heals: true, evaluates: true, args });
    const evaluated = events.flatMap((event) => (event.type === "eval" ? [event.loss] : []));
    expect(evaluated).toEqual([Number.NaN, expect.any(Number)]);
    expect(events.at(-1)).toMatchObject({ result: { evalLoss: evaluated[1] } });
  });

  it("is counted on by a resumed run, which ends as the uninterrupted one", async () => {
    const folder = tempFolder();
    const whole = await run({ poisoned: [2], outputDir: join(folder, "whole") });
    const outputDir = join(folder, "parts");
    for (const cut of [1, 2, 3]) {
      const resume = cut > 1 ? { resumeFromCheckpoint: true as const } : {};
      await run({ poisoned: [2], outputDir, args: resume, abortAt: cut });
    }
    const rest = await run({ poisoned: [2], outputDir, args: { resumeFromCheckpoint: true } });
    expect(rest.weights).toBe(whole.weights);
    expect(rest.events.at(-1)).toMatchObject({
      result: { skippedSteps: 2, trainLoss: (whole.events.at(-1) as { result: { trainLoss: number } }).result.trainLoss },
    });
    expect(await stateOf(outputDir, 4)).toEqual(await stateOf(join(folder, "whole"), 4));
  });
});

describe("five such steps in a row", () => {
  it.each([
    ["after good ones", { saveSteps: 1000 }],
    ["with a checkpoint of every step", { saveSteps: 1, saveTotalLimit: 1 }],
    ["where nothing else is saved", { saveStrategy: "no" as const }],
  ])("stop the run, the last good state on the disk and in memory: %s", async (_, args) => {
    const folder = tempFolder();
    const good = await run({ args: { maxSteps: 9, saveSteps: 1 }, outputDir: join(folder, "good"), abortAt: 2 });
    expect(good.error).toBe("stop");
    const outputDir = join(folder, "bad");
    const spoiledGradients = [3, 4, 5, 6, 7, 8, 9];
    const { events, error, weights } = await run({ args: { maxSteps: 9, ...args }, spoiledGradients, outputDir });
    expect(error).toMatchObject({ code: "NON_FINITE", details: { step: 7, skipped: 5 } });
    expect(skippedOf(events)).toEqual([3, 4, 5, 6, 7]);
    expect(weights).toBe(good.weights);
    expect(events.at(-1)).toMatchObject({ type: "checkpoint", step: 7 });
    const { values } = await stateOf(outputDir, 7);
    expect(values).toBe((await stateOf(join(folder, "good"), 2)).values);
    // A resumed run counts on: one more and it stops again; a good one and it goes on.
    const again = await run({ args: { maxSteps: 9, ...args, resumeFromCheckpoint: true }, spoiledGradients: [1], outputDir });
    expect(again.error).toMatchObject({ code: "NON_FINITE", details: { step: 8, skipped: 6 } });
    const on = await run({ args: { maxSteps: 9, ...args, resumeFromCheckpoint: true }, outputDir });
    expect(on.events.at(-1)).toMatchObject({ type: "done", result: { steps: 9, skippedSteps: 6 } });
  });

  it("also stop one that writes nothing", async () => {
    const { error } = await run({ args: { maxSteps: 9 }, spoiledGradients: [1, 2, 3, 4, 5] });
    expect(error).toMatchObject({ code: "NON_FINITE", details: { step: 5 } });
    expect((await errorOf(Promise.reject(error))).hint).toMatch(/weights are those of the last good step/);
  });
});
