import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { SCHEDULE_TYPES } from "../../src/optim/schedules.js";
import { OPTIMIZERS, type OptimizerName } from "../../src/train/optimizer.js";
import { tempFolder } from "../io/files.js";
import { type Case, cutAndResume, outcome, runCase, stepsOf } from "./matrix.js";

/** 7 examples in batches of 2 · 2 are epochs of two steps, the second a short one: 5 steps end within the third epoch. */
const BASE = { perDeviceTrainBatchSize: 2, gradientAccumulationSteps: 2, maxSteps: 5 };
const CASES: [name: string, job: Case][] = [
  ["LoRA, dropout, accumulation", { args: BASE, lora: { loraDropout: 0.2 } }],
  [
    "packed",
    { args: { ...BASE, packing: true, cutoffLen: 30, perDeviceTrainBatchSize: 1, maxSteps: 4 }, lora: { loraDropout: 0.1 } },
  ],
  ["gradient checkpointing", { args: { ...BASE, gradientCheckpointing: true }, lora: { loraDropout: 0.3, loraBias: true } }],
  ["evaluation in between", { args: BASE, lora: {}, evaluates: true }],
  ["an evaluation that is best at first", { args: { ...BASE, learningRate: 1e-20 }, lora: {}, evaluates: true }],
  ["an NF4 base", { args: { ...BASE, weightDecay: 0.1 }, lora: { loraDropout: 0.1 }, loadIn4bit: true }],
  ["bfloat16 products", { args: BASE, lora: { loraDropout: 0.1 }, dtype: "bfloat16" }],
  ["all parameters", { args: { ...BASE, maxSteps: 4 } }],
  ["sgd", { args: { ...BASE, optim: "sgd", learningRate: 0.5 }, lora: {} }],
  ["adam", { args: { ...BASE, optim: "adam", weightDecay: 0.1 }, lora: {} }],
  // At rank 64 most of the pairs' matrices have 4096 elements and 8-bit moments; B of k_proj and v_proj has 2048 and 32-bit ones.
  ["adamw_8bit", { args: { ...BASE, optim: "adamw_8bit", weightDecay: 0.1 }, lora: { r: 64 } }],
  ["lion_8bit", { args: { ...BASE, optim: "lion_8bit", learningRate: 1e-3 }, lora: { r: 64 } }],
  ["lion", { args: { ...BASE, optim: "lion_32bit", learningRate: 1e-3, weightDecay: 0.1 }, lora: {} }],
  ["adafactor", { args: { ...BASE, optim: "adafactor", weightDecay: 0.1 }, lora: {} }],
  ["adafactor on all parameters", { args: { ...BASE, maxSteps: 4, optim: "adafactor" } }],
  ["paged_adamw_8bit on all parameters", { args: { ...BASE, maxSteps: 4, optim: "paged_adamw_8bit" } }],
  [
    "NEFTune and label smoothing",
    { args: { ...BASE, neftuneNoiseAlpha: 5, labelSmoothingFactor: 0.1 }, lora: {}, evaluates: true },
  ],
  ["in the data's own order, logged every third step", { args: { ...BASE, disableShuffling: true, loggingSteps: 3 }, lora: {} }],
];
const kwargs = (type: string) =>
  type.includes("min_lr")
    ? { lrSchedulerKwargs: { min_lr_rate: 0.1 } }
    : type === "warmup_stable_decay"
      ? { lrSchedulerKwargs: { num_decay_steps: 2 } }
      : {};
for (const type of SCHEDULE_TYPES)
  CASES.push([
    `schedule ${type}`,
    {
      args: { ...BASE, gradientAccumulationSteps: 1, maxSteps: 4, warmupSteps: 2, lrSchedulerType: type, ...kwargs(type) },
      lora: {},
    },
  ]);

describe("cut off twice and resumed, at changing numbers of threads, a run equals the uninterrupted one in all it leaves", () => {
  it.each(CASES)("%s", (_, job) => cutAndResume(job, tempFolder(), [1, 3], [2, 1, 4, 2]));
});

describe("a checkpoint of every step", () => {
  it.each([CASES[0]!, CASES[3]!])("%s: each leads to the same end", async (_, job) => {
    const folder = tempFolder();
    const whole = join(folder, "whole");
    const expected = await runCase(job, whole, { threads: 2 });
    // Saving at every step changes nothing either.
    const saving: Case = { ...job, args: { ...job.args, saveSteps: 1, saveTotalLimit: null } };
    const every = join(folder, "every");
    expect(stepsOf(await runCase(saving, every, { threads: 1 }))).toEqual(stepsOf(expected));
    expect(outcome(every)["/adapter_model.safetensors"]).toBe(outcome(whole)["/adapter_model.safetensors"]);
    const log = outcome(whole)["trainer_log.jsonl"] as { current_steps: number }[];
    for (let step = 1; step <= BASE.maxSteps; step++) {
      const outputDir = join(folder, `from-${step}`);
      const events = await runCase(job, outputDir, {
        threads: step % 2 === 0 ? 4 : 1,
        resume: join(every, `checkpoint-${step}`),
      });
      expect(stepsOf(events)).toEqual(stepsOf(expected).filter((event) => event.step > step));
      if (step === BASE.maxSteps) continue; // nothing is left to save but the result
      const { "trainer_log.jsonl": own, ...rest } = outcome(outputDir);
      const { "trainer_log.jsonl": _all, ...all } = outcome(whole);
      expect(rest).toEqual(all);
      expect(own).toEqual(log.filter((line) => line.current_steps > step));
    }
  });

  it("of the last step finishes a run that was ended before its final files", async () => {
    const folder = tempFolder();
    const [, job] = CASES[0]!;
    const [whole, ended] = [join(folder, "whole"), join(folder, "ended")];
    await runCase(job, whole, { threads: 2 });
    await runCase(job, ended, { threads: 1 });
    for (const name of readdirSync(ended))
      if (!/^(checkpoint-|trainer_log)/.test(name)) rmSync(join(ended, name), { recursive: true });
    const events = await runCase(job, ended, { threads: 4, resume: true });
    expect(stepsOf(events)).toEqual([]);
    expect(existsSync(join(ended, "adapter_config.json"))).toBe(true);
    expect(outcome(ended)).toEqual(outcome(whole));
  });
});

describe("any run, cut anywhere, any number of times", () => {
  const job: fc.Arbitrary<Case> = fc
    .record({
      batch: fc.integer({ min: 1, max: 3 }),
      accumulation: fc.integer({ min: 1, max: 3 }),
      steps: fc.integer({ min: 1, max: 7 }),
      examples: fc.integer({ min: 1, max: 8 }),
      packing: fc.boolean(),
      dropout: fc.constantFrom(0, 0.3),
      checkpointing: fc.boolean(),
      optim: fc.constantFrom(...(Object.keys(OPTIMIZERS) as OptimizerName[])),
      schedule: fc.constantFrom(...SCHEDULE_TYPES),
      warmup: fc.integer({ min: 0, max: 3 }),
      full: fc.boolean(),
      loadIn4bit: fc.boolean(),
      evaluates: fc.boolean(),
      saveSteps: fc.constantFrom(2, 1000),
      seed: fc.nat(1000),
    })
    .map((r) => ({
      args: {
        perDeviceTrainBatchSize: r.batch,
        gradientAccumulationSteps: r.accumulation,
        maxSteps: r.steps,
        ...(r.packing && { packing: true, cutoffLen: 25 }),
        gradientCheckpointing: r.checkpointing,
        optim: r.optim,
        lrSchedulerType: r.schedule,
        ...kwargs(r.schedule),
        warmupSteps: r.warmup,
        saveSteps: r.saveSteps,
        weightDecay: 0.01,
        seed: r.seed,
      },
      ...(r.full && !r.loadIn4bit ? {} : { lora: { loraDropout: r.dropout } }),
      loadIn4bit: r.loadIn4bit,
      evaluates: r.evaluates,
      examples: r.examples,
    }));

  it("ends as if it had never stopped", async () => {
    const runs = Number(process.env.LOWRANK_RESUME_RUNS ?? 12);
    const seed = Number(process.env.LOWRANK_RESUME_SEED ?? 4);
    const cuts = fc.array(fc.nat(7), { minLength: 1, maxLength: 4 }).map((steps) => steps.sort((a, b) => a - b));
    const threads = fc.shuffledSubarray([1, 2, 4], { minLength: 2 });
    await fc.assert(
      fc.asyncProperty(job, cuts, threads, async (job, cuts, threads) => {
        const folder = tempFolder();
        await cutAndResume(job, folder, cuts, threads);
        rmSync(folder, { recursive: true });
      }),
      { numRuns: runs, seed, endOnFailure: runs < 20 },
    );
  }, 3_600_000);
});
