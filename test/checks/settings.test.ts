/** Settings with which little or nothing would be learnt, through YAML and through a Trainer; each beside its honest neighbour. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { getPeftModel } from "../../src/peft/peft-model.js";
import { parseTrainConfig } from "../../src/train/config.js";
import { prepareData, prepareRun } from "../../src/train/run-config.js";
import { Trainer } from "../../src/train/trainer.js";
import { errorOf, tempFolder } from "../io/files.js";
import { collect, countingExamples, loadTiny, tinyPeft } from "../train/tiny.js";
import { alpaca, codesOf, foundIn, honest, plant, prepared, seenByTrainer, warningsOf } from "./plant.js";

describe("the run", () => {
  it("a learning rate of 0, or far too high for AdamW", async () => {
    expect(codesOf(await seenByTrainer(honest(), { args: { learningRate: 0 } }))).toEqual(["learning-rate-zero"]);
    expect(codesOf(await seenByTrainer(honest(), { args: { learningRate: 2 } }))).toEqual(["learning-rate-high"]);
    expect(await seenByTrainer(honest(), { args: { learningRate: 2, optim: "sgd" } })).toEqual([]);
    expect(await seenByTrainer(honest(), { args: { learningRate: 5e-2 } })).toEqual([]);
    expect(await foundIn({ rows: alpaca(), yaml: "learning_rate: 2" })).toEqual(["learning-rate-high"]);
  });

  it("warmup that never ends, and a single step that was not meant", async () => {
    const args = { perDeviceTrainBatchSize: 2, maxSteps: -1, numTrainEpochs: 1 };
    expect(codesOf(await seenByTrainer(honest(), { args: { ...args, warmupSteps: 4 } }))).toEqual(["warmup-too-long"]);
    expect(await seenByTrainer(honest(), { args: { ...args, warmupSteps: 3 } })).toEqual([]);
    expect(await seenByTrainer(honest(), { args: { ...args, warmupSteps: 0.5 } })).toEqual([]);
    expect(codesOf(await seenByTrainer(honest(), { args: { ...args, numTrainEpochs: 0.1 } }))).toEqual(["one-step"]);
    expect(await seenByTrainer(honest(), { args: { ...args, maxSteps: 1 } })).toEqual([]);
  });

  it("an evaluation set that is never used", async () => {
    expect(codesOf(await seenByTrainer(honest(), { evalDataset: countingExamples(2) }))).toEqual(["eval-unused"]);
    expect(await foundIn({ rows: alpaca(), yaml: "val_size: 2" })).toEqual(["eval-unused"]);
  });
});

describe("the adapter", () => {
  it("scaled by 0 or with all inputs dropped trains nothing: an error", async () => {
    await using scaled = await tinyPeft({ loraAlpha: 0 });
    expect(await errorOf(new Trainer({ model: scaled, dataset: honest() }).train())).toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringMatching(/lora_alpha is 0.*\[scale-zero\]/),
    });
    const { text } = await plant({ rows: alpaca(), yaml: "lora_dropout: 1" });
    expect(await errorOf(prepareRun(parseTrainConfig(text).config))).toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringMatching(/lora_dropout is 1.*\[dropout-one\]/),
    });
  });

  it("a rank above what its matrices have", async () => {
    const { findings } = await prepared({ rows: alpaca(40), yaml: "lora_rank: 33" });
    expect(codesOf(findings)).toEqual(["rank-above-matrix"]);
    expect(findings[0]!.message).toMatch(
      /Rank 33 is above what 4 of 14 target matrices have \(model\.layers\.0\.self_attn\.k_proj is 32 × 64/,
    );
    expect(findings[0]!.hint).toMatch(/Set lora_rank to 32 or less/);
    expect(await foundIn({ rows: alpaca(40), yaml: "lora_rank: 32" })).toEqual([]);
  });

  it("a rank far above what the data can tell", async () => {
    const rows = [{ instruction: "q", output: "a" }];
    const { findings } = await prepared({ rows, yaml: "lora_rank: 32" });
    expect(codesOf(findings)).toEqual(["rank-above-data"]);
    // Two bits a parameter against log2 of the vocabulary a target, thousandfold.
    const [, parameters, targets, times] = /makes ([\d,]+) .* for (\d+) target tokens: ([\d,]+) times/.exec(
      findings[0]!.message,
    )!;
    const number = (text: string) => Number(text.replaceAll(",", ""));
    expect(number(parameters!)).toBe(2 * 32 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 192)));
    expect(number(times!)).toBe(Math.round((2 * number(parameters!)) / (number(targets!) * Math.log2(320))));
    expect(await foundIn({ rows: alpaca(40), yaml: "lora_rank: 32" })).toEqual([]);
    expect(await foundIn({ rows, yaml: "finetuning_type: full" })).toEqual([]);
  });

  it("one that is trained further brings its own shapes", async () => {
    await using wide = await tinyPeft({ r: 64 });
    const adapter = join(tempFolder(), "adapter");
    await wide.savePretrained(adapter);
    const { text } = await plant({ rows: alpaca(40), yaml: `adapter_name_or_path: ${adapter}` });
    const run = await prepareRun(parseTrainConfig(text).config);
    try {
      expect(codesOf(run.findings)).toEqual(["rank-above-matrix"]);
      expect(warningsOf(await collect(run.trainer)).map(({ code }) => code)).toEqual(["rank-above-matrix"]);
    } finally {
      run.model.dispose();
    }
  });

  it("targets that match no module: named with near ones before any weight is loaded", async () => {
    const { text } = await plant({ rows: alpaca(), yaml: "lora_target: [q_proj, v_porj]" });
    const error = await errorOf(prepareData(parseTrainConfig(text).config));
    expect(error.code).toBe("ADAPTER_MISMATCH");
    expect(error.message).toMatch(/'v_porj' matches no module; did you mean 'v_proj'\?/);
    expect(error.hint).toMatch(/q_proj, k_proj/);
    await using model = await loadTiny();
    expect(() => getPeftModel(model, { targetModules: ["q_prj"] })).toThrow(/'q_prj' matches no module; did you mean 'q_proj'/);
  });

  it("full-parameter training has none", async () => {
    await using model = await loadTiny();
    expect(warningsOf(await collect({ model, dataset: honest(), args: { maxSteps: 2, saveStrategy: "no" } }))).toEqual([]);
  });
});
