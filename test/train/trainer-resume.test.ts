import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { getDevice } from "../../src/tensor/device.js";
import type { TrainingArguments } from "../../src/train/arguments.js";
import { errorOf, tempFolder } from "../io/files.js";
import { ARGS, collect, countingExamples, deviceWith, loadTiny, losses, tinyPeft } from "./tiny.js";

const dataset = countingExamples(13);
/** Accumulation, dropout, and epochs of 4 steps (without packing), so that step 6 lies inside the second. */
const HARD: TrainingArguments = {
  ...ARGS,
  perDeviceTrainBatchSize: 2,
  gradientAccumulationSteps: 2,
  maxSteps: 9,
  saveStrategy: "no",
};
const weights = (outputDir: string) => readFileSync(join(outputDir, "adapter_model.safetensors"));
const run = async (
  outputDir: string,
  args: TrainingArguments,
  options: { threads?: number; stopAt?: number; allowChange?: string[]; rank?: number } = {},
) => {
  const device = options.threads === undefined ? getDevice() : deviceWith(options.threads);
  await using peft = await tinyPeft({ loraDropout: 0.2, r: options.rank ?? 4 }, device);
  const controller = new AbortController();
  const events = [];
  const reason = new Error("stop");
  try {
    events.push(
      ...(await collect(
        { model: peft, dataset, args: { ...args, outputDir }, allowChange: options.allowChange ?? [] },
        controller.signal,
        (event) => {
          events.push(event);
          if (event.type === "step" && event.step === options.stopAt) controller.abort(reason);
        },
      )),
    );
  } catch (error) {
    if (error !== reason) throw error;
  }
  return events;
};

describe("bit-exact", () => {
  it.each([
    ["plain", {}],
    ["packed", { packing: true, cutoffLen: 40, perDeviceTrainBatchSize: 1 }],
  ])("%s: interrupted and resumed at 1, 2 and 4 threads equals the uninterrupted run", async (_, more) => {
    const folder = tempFolder();
    const args = { ...HARD, ...more };
    await run(join(folder, "whole"), args);
    const expected = weights(join(folder, "whole"));
    for (const threads of [1, 2, 4]) {
      const outputDir = join(folder, `parts-${threads}`);
      const first = await run(outputDir, args, { threads, stopAt: 5 });
      const saved = first.find((event) => event.type === "checkpoint");
      // The step that was enqueued already ends too.
      expect(saved).toMatchObject({ type: "checkpoint", step: 6 });
      const second = await run(outputDir, { ...args, resumeFromCheckpoint: true }, { threads: 5 - threads });
      expect(losses(second)[0]).toBeDefined();
      expect(Buffer.compare(weights(outputDir), expected)).toBe(0);
      const log = readFileSync(join(outputDir, "trainer_log.jsonl"), "utf8").trim().split("\n");
      expect(log.map((line) => JSON.parse(line).current_steps)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }
  });

  it("full-parameter training resumes bit-exactly too", async () => {
    const folder = tempFolder();
    const train = async (outputDir: string, args: TrainingArguments, stopAt?: number) => {
      await using model = await loadTiny();
      const controller = new AbortController();
      await collect({ model, dataset, args: { ...HARD, maxSteps: 4, ...args, outputDir } }, controller.signal, (event) => {
        if (event.type === "step" && event.step === stopAt) controller.abort("stop");
      }).catch((error) => expect(error).toBe("stop"));
    };
    await train(join(folder, "whole"), {});
    await train(join(folder, "parts"), {}, 1);
    await train(join(folder, "parts"), { resumeFromCheckpoint: true });
    const file = (name: string) => readFileSync(join(folder, name, "model.safetensors"));
    expect(Buffer.compare(file("parts"), file("whole"))).toBe(0);
  });
});

describe("resuming", () => {
  it("passes over a damaged checkpoint, and refuses it when it is named", async () => {
    const outputDir = join(tempFolder(), "run");
    const args: TrainingArguments = { ...HARD, maxSteps: 3, saveStrategy: "steps", saveSteps: 1 };
    await run(outputDir, args);
    const damaged = join(outputDir, "checkpoint-3");
    const optimizer = join(damaged, "optimizer.safetensors");
    const bytes = readFileSync(optimizer);
    bytes[bytes.length - 5]! ^= 1;
    writeFileSync(optimizer, bytes);
    const events = await run(outputDir, { ...args, resumeFromCheckpoint: true });
    const warnings = events.flatMap((event) => (event.type === "warning" ? [event.message] : []));
    expect(warnings.join("\n")).toMatch(/Passed over .*checkpoint-3/);
    expect(warnings.join("\n")).toMatch(/checkpoint-2 at step 2/);

    writeFileSync(join(damaged, "optimizer.safetensors"), bytes);
    expect((await errorOf(run(outputDir, { ...args, resumeFromCheckpoint: damaged }))).code).toBe("CHECKPOINT");
    const empty = join(tempFolder(), "empty");
    const error = await errorOf(run(empty, { ...args, resumeFromCheckpoint: true }));
    expect(error).toMatchObject({ code: "INVALID_CONFIG" });
    expect(readdirSync(empty).filter((name) => name.startsWith("checkpoint"))).toEqual([]);
  });

  it("continues an interrupted run also under saveOnlyModel, whose own checkpoints hold weights alone", async () => {
    const outputDir = join(tempFolder(), "run");
    const args: TrainingArguments = { ...HARD, maxSteps: 4, saveStrategy: "steps", saveSteps: 1, saveOnlyModel: true };
    await run(outputDir, args, { stopAt: 2 });
    const events = await run(outputDir, { ...args, resumeFromCheckpoint: true });
    expect(events.at(-1)).toMatchObject({ type: "done", result: { steps: 4 } });
    const error = await errorOf(run(outputDir, { ...args, resumeFromCheckpoint: join(outputDir, "checkpoint-4") }));
    expect(error.message).toMatch(/without optimizer state/);
  });

  it("names every difference, and accepts those that are allowed", async () => {
    const outputDir = join(tempFolder(), "run");
    const args: TrainingArguments = { ...HARD, maxSteps: 2, saveStrategy: "steps", saveSteps: 1 };
    await run(outputDir, args);
    const changed = {
      ...args,
      resumeFromCheckpoint: true as const,
      learningRate: 1e-3,
      weightDecay: 0.1,
      saveSteps: 7,
      maxSteps: 3,
    };
    const error = await errorOf(run(outputDir, changed));
    expect(error.code).toBe("INVALID_CONFIG");
    expect(error.message).toContain("learningRate: 0.005 → 0.001");
    expect(error.message).toContain("weightDecay: 0 → 0.1");
    expect(error.message).not.toContain("saveSteps");
    expect(error.hint).toContain("--allow-change learningRate");
    const events = await run(outputDir, changed, { allowChange: ["learningRate", "weightDecay", "maxSteps"] });
    expect(events.at(-1)).toMatchObject({ type: "done", result: { steps: 3 } });
    // Another rank cannot be allowed: its tensors do not fit.
    const other = await errorOf(
      run(
        outputDir,
        { ...changed, maxSteps: 4 },
        { allowChange: ["learningRate", "weightDecay", "maxSteps", "parameters"], rank: 8 },
      ),
    );
    expect(other.code).toBe("CHECKPOINT");
  });
});
