import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { packTokens } from "../../src/data/collate.js";
import { resolveArguments } from "../../src/train/arguments.js";
import { parseTrainConfig } from "../../src/train/config.js";
import { estimateRun } from "../../src/train/estimate.js";
import { evaluateBatch } from "../../src/train/evaluate.js";
import { neftune } from "../../src/train/neftune.js";
import { createOptimizer, OPTIMIZERS, type OptimizerName } from "../../src/train/optimizer.js";
import { TrainStep } from "../../src/train/step.js";
import { adapterTrainable, fullTrainable, type Trainable } from "../../src/train/trainable.js";
import { errorOf, tempFolder } from "../io/files.js";
import { ARGS, collect, countingExamples, loadTiny, losses, TINY, tinyPeft } from "./tiny.js";

const NAMES = Object.keys(OPTIMIZERS) as OptimizerName[];
const make = (trainable: Pick<Trainable, "arena" | "embeddings" | "plan">, optim: OptimizerName) =>
  createOptimizer(resolveArguments({ optim, learningRate: 1e-3 }), trainable);

describe("optim", () => {
  it.each(NAMES)("%s lowers the loss of a short run", async (optim) => {
    await using peft = await tinyPeft({ r: 4 });
    const learningRate = optim === "sgd" ? 0.5 : optim.includes("lion") ? 1e-3 : 5e-3;
    const args = { ...ARGS, optim, learningRate, maxSteps: 6, perDeviceTrainBatchSize: 4 };
    const curve = losses(await collect({ model: peft, dataset: countingExamples(4), args }));
    expect(curve.at(-1)!).toBeLessThan(curve[0]! - 0.01);
  });

  it.each([
    ["paged_adamw_8bit", "adamw_bnb_8bit"],
    ["paged_adamw_32bit", "adamw_torch"],
    ["paged_lion_8bit", "lion_8bit"],
  ] as const)("%s computes what %s does, bit for bit", async (paged, plain) => {
    const files = [];
    for (const optim of [paged, plain]) {
      await using peft = await tinyPeft({ r: 64 });
      const outputDir = join(tempFolder(), "run");
      await collect({ model: peft, dataset: countingExamples(4), args: { ...ARGS, optim, maxSteps: 3, outputDir } });
      files.push(readFileSync(join(outputDir, "checkpoint-3/optimizer.safetensors")));
    }
    expect(Buffer.compare(files[0]!, files[1]!)).toBe(0);
  });

  it("estimate knows what each keeps: fewer bytes with 8-bit moments, one moment, and none", async () => {
    const bytes = async (optim: OptimizerName) => {
      const yaml = `model_name_or_path: ${TINY}\ndataset: d\noutput_dir: o\noptim: ${optim}\nlora_rank: 64\n`;
      const { optimizerBytes, trainableParameters } = await estimateRun(parseTrainConfig(yaml).config, TINY, 20);
      return optimizerBytes / trainableParameters - 8; // values and gradients
    };
    // B of k_proj and v_proj keeps 32-bit moments: it has fewer than 4096 elements. Tables, maps and rounding take a little.
    expect(Math.abs((await bytes("adamw_torch")) - 8)).toBeLessThan(0.2);
    expect(Math.abs((await bytes("adamw_8bit")) - 2.6)).toBeLessThan(0.4);
    expect(Math.abs((await bytes("lion_32bit")) - 4)).toBeLessThan(0.2);
    expect(Math.abs((await bytes("lion_8bit")) - 1.3)).toBeLessThan(0.2);
    expect(await bytes("adafactor")).toBeLessThan(0.3);
    expect(await bytes("sgd")).toBeLessThan(0.2);
  });

  it("8-bit moments leave embeddings in 32 bits, as transformers does, also a trained copy of them", async () => {
    await using base = await loadTiny();
    using full = fullTrainable(base);
    expect([...full.embeddings]).toEqual(["model.embed_tokens.weight"]);
    const optimizer = make(full, "adamw_8bit");
    const table = full.arena.segments.find(({ name }) => name === "model.embed_tokens.weight")!;
    expect(optimizer.state.exp_avg!.size).toBeGreaterThanOrEqual(table.end - table.begin);
    expect(optimizer.state.state1!.size).toBeLessThanOrEqual(full.arena.values.size - (table.end - table.begin));
    optimizer.dispose();
    await using peft = await tinyPeft({ modulesToSave: ["embed_tokens"] });
    using adapter = adapterTrainable(peft);
    const names = adapter.arena.segments.map(({ name }) => name);
    expect(names.filter((name) => adapter.embeddings.has(name))).toEqual(["base_model.model.model.embed_tokens.weight"]);
  });

  it("a checkpoint of another width is refused, not read as codes", async () => {
    const outputDir = join(tempFolder(), "run");
    const run = async (optim: OptimizerName, more = {}) => {
      await using peft = await tinyPeft({ r: 64 });
      const args = { ...ARGS, optim, maxSteps: 2, outputDir, ...more };
      return await collect({ model: peft, dataset: countingExamples(4), args, allowChange: ["optim"] });
    };
    await run("adamw_8bit");
    const error = await errorOf(run("adamw_torch", { resumeFromCheckpoint: true }));
    expect(error).toMatchObject({ code: "CHECKPOINT", message: expect.stringContaining("another optimizer made it") });
  });
});

describe("NEFTune", () => {
  const tokens = { ...packTokens(countingExamples(2)), width: 25 };

  it("draws uniform noise in alpha / sqrt(width * hidden), the same for a micro-step and another for the next", async () => {
    await using base = await loadTiny();
    const draw = async (seed: number, microStep: number) => {
      using noise = neftune(5, seed)(tokens, microStep, 64, base.device);
      expect(noise.shape).toEqual([tokens.inputIds.length, 64]);
      return noise.readFloat32();
    };
    const noise = await draw(1, 3);
    const high = 5 / Math.sqrt(25 * 64);
    expect(Math.max(...noise.map(Math.abs))).toBeLessThanOrEqual(high);
    expect(Math.max(...noise.map(Math.abs))).toBeGreaterThan(0.99 * high);
    expect(Math.abs(noise.reduce((sum, x) => sum + x, 0) / noise.length)).toBeLessThan(0.05 * high);
    expect(await draw(1, 3)).toEqual(noise);
    expect(await draw(1, 4)).not.toEqual(noise);
    expect(await draw(2, 3)).not.toEqual(noise);
  });

  it("changes training and not evaluation, the same with gradient checkpointing", async () => {
    const run = async (args: object) => {
      await using peft = await tinyPeft();
      const dataset = countingExamples(4);
      const all = { ...ARGS, learningRate: 0, maxSteps: 1, evalStrategy: "steps", ...args } as const;
      const events = await collect({ model: peft, dataset, evalDataset: dataset, args: all });
      return { loss: losses(events)[0], evaluation: events.find(({ type }) => type === "eval") };
    };
    const plain = await run({});
    const noisy = await run({ neftuneNoiseAlpha: 20 });
    expect(Math.abs(noisy.loss! - plain.loss!)).toBeGreaterThan(1e-3);
    expect(noisy.evaluation).toEqual(plain.evaluation);
    expect((await run({ neftuneNoiseAlpha: 20, gradientCheckpointing: true })).loss).toBe(noisy.loss);
  });
});

describe("label smoothing", () => {
  it("is part of the evaluation's loss too, and does not depend on how a step is split or packed", async () => {
    await using peft = await tinyPeft({ initLoraWeights: false });
    using trainable = adapterTrainable(peft);
    const optimizer = make(trainable, "sgd");
    const examples = countingExamples(4);
    const step = new TrainStep(peft.base, optimizer, { seed: 1, labelSmoothing: 0.2 });
    const plain = new TrainStep(peft.base, optimizer, { seed: 1 });
    const whole = packTokens(examples);
    const loss = (await step.run([whole], 0, 0)).loss;
    expect(Math.abs(loss - (await plain.run([whole], 0, 0)).loss)).toBeGreaterThan(1e-3);
    const parts = examples.map((example) => packTokens([example]));
    expect(Math.abs((await step.run(parts, 0, 0)).loss - loss)).toBeLessThan(1e-5);
    const { lossSum, targetTokens } = await evaluateBatch(peft.base, whole, { labelSmoothing: 0.2 });
    expect(Math.abs(lossSum / targetTokens - loss)).toBeLessThan(1e-5);
    optimizer.dispose();
  });
});
