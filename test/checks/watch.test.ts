/** What a run shows while it trains and when it ends: a learning rate that diverges, an adapter that stayed zero. */
import { describe, expect, it } from "vitest";
import { buildExamples } from "../../src/data/examples.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { getPeftModel } from "../../src/peft/peft-model.js";
import { adapterTraining } from "../../src/quickstart/adapters.js";
import { LossWatch, type WatchedStep } from "../../src/train/checks/watch.js";
import { ARGS, collect, countingExamples, losses, tinyPeft } from "../train/tiny.js";
import { warningsOf } from "./plant.js";

const dataset = countingExamples(16);
const run = async (args: object, lora = {}) => {
  await using peft = await tinyPeft(lora);
  return await collect({
    model: peft,
    dataset,
    args: { ...ARGS, perDeviceTrainBatchSize: 8, maxSteps: 24, lrSchedulerType: "constant", ...args },
  });
};
const watch = (steps: readonly Partial<WatchedStep>[], vocabulary = 50_000) => {
  const watching = new LossWatch(vocabulary);
  const seen = steps.flatMap((step, i) =>
    watching
      .see({ step: i + 1, loss: 1, gradNorm: 1, lr: 1e-3, targetTokens: 40, ...step })
      .map(({ code }) => `${i + 1} ${code}`),
  );
  return [...seen, ...watching.atEnd().map(({ code }) => `end ${code}`)];
};
/** Numbers that look random and repeat. */
function noise(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

describe("a learning rate", () => {
  /** On the embedded model, which has something to lose. */
  const train = async (learningRate: number) => {
    const model = await AutoModelForCausalLM.fromPretrained("lowrank/tiny", { dtype: "float32" });
    const tokenizer = (await model.tokenizer())!;
    const rows = adapterTraining("identity", 1).map(({ question, answer }) => ({
      kind: "chat" as const,
      messages: [
        { role: "user", content: question },
        { role: "assistant", content: answer },
      ],
      tools: null,
    }));
    const { examples } = await buildExamples(rows, tokenizer, { cutoffLen: 128 });
    await using peft = getPeftModel(model, { r: 4, loraAlpha: 8, targetModules: "all-linear" });
    return await collect({
      model: peft,
      tokenizer,
      dataset: examples,
      args: { perDeviceTrainBatchSize: 8, maxSteps: 16, lrSchedulerType: "constant", learningRate },
    });
  };

  it.each([2, 0.5, 0.05])("of %f diverges: said early, once, with the remedy, and in the result", async (rate) => {
    const events = await train(rate);
    const found = warningsOf(events).filter(({ code }) => code === "diverging");
    expect(found).toHaveLength(1);
    const [, step, start, now] = /^Step (\d+): the loss rose from ([\d.]+) to ([\d.]+) and stays there/.exec(found[0]!.message)!;
    expect(Number(step)).toBeLessThan(12);
    expect(Number(start)).toBeLessThan(losses(events)[0]! + 0.01);
    expect(Number(now)).toBeGreaterThan(Number(start) + 1.5);
    expect(found[0]!.hint).toContain(`lower the learning rate (now ${rate.toPrecision(2)})`);
    const done = events.at(-1)!;
    expect(done.type === "done" && done.result.warnings.map(({ code }) => code)).toEqual([
      ...(rate >= 0.1 ? ["learning-rate-high"] : []),
      "diverging",
    ]);
  });

  it.each([1e-4, 2e-3, 1e-2])("of %f is not flagged", async (rate) => {
    const events = await train(rate);
    expect(warningsOf(events)).toEqual([]);
    expect(losses(events).at(-1)!).toBeLessThan(losses(events)[0]!);
  });
});

describe("the rule", () => {
  it("wants every step of a window far above the start", () => {
    const rising = (calm: number, loss: number, more = {}) =>
      watch(Array.from({ length: 30 }, (_, i) => ({ loss: i < calm ? 1.5 : loss, ...more })));
    expect(rising(10, 7)).toEqual(["13 diverging"]);
    expect(rising(1, 9)).toEqual(["4 diverging"]);
    // Half the way from 1.5 to ln 50 000 is 6.16.
    expect(rising(10, 6.2)).toEqual(["13 diverging"]);
    expect(rising(10, 6.1)).toEqual(["end loss-above-start"]);
    // Few targets a step: the window grows until it holds a hundred.
    expect(rising(10, 7, { targetTokens: 10 })).toEqual(["20 diverging"]);
    expect(watch(Array.from({ length: 30 }, (_, i) => ({ loss: i % 3 === 0 ? 1.5 : 9 })))).toEqual([]);
    // A model that guesses cannot get far worse by learning.
    expect(watch(Array.from({ length: 30 }, (_, i) => ({ loss: i < 10 ? 10.8 : 12.2 })))).toEqual(["end loss-above-start"]);
    expect(watch(Array.from({ length: 30 }, (_, i) => ({ loss: i < 10 ? 10.8 : 12.4 })))).toEqual(["13 diverging"]);
    expect(watch(Array.from({ length: 30 }, () => ({ loss: 9, targetTokens: 0 })))).toEqual([]);
    expect(watch(Array.from({ length: 2 }, () => ({ loss: 9 })))).toEqual([]);
  });

  it("sees gradients explode", () => {
    expect(watch(Array.from({ length: 20 }, (_, i) => ({ gradNorm: i < 8 ? 1 : 150 })))).toEqual(["11 gradient-exploding"]);
    expect(watch(Array.from({ length: 20 }, (_, i) => ({ gradNorm: i < 8 ? 1 : i % 3 === 0 ? 50 : 150 })))).toEqual([]);
    expect(watch(Array.from({ length: 20 }, (_, i) => ({ gradNorm: i < 8 ? 0 : 150 })))).toEqual([]);
  });

  it("compares start and end by their spread", () => {
    const noisy = (rise: number, seed: number) => {
      const random = noise(seed);
      return watch(Array.from({ length: 60 }, (_, i) => ({ loss: 2 + random() - 0.5 + (i > 30 ? rise : 0) })));
    };
    expect(noisy(0.5, 1)).toEqual(["end loss-above-start"]);
    expect(noisy(0, 1)).toEqual([]);
    expect(noisy(-0.5, 1)).toEqual([]);
    expect(watch(Array.from({ length: 9 }, (_, i) => ({ loss: 1 + i })))).not.toContain("end loss-above-start");
  });

  it("has no false alarm in 600 noisy runs of small batches that do not rise", () => {
    const alarms: string[] = [];
    for (let seed = 1; seed <= 600; seed++) {
      const random = noise(seed);
      const gaussian = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
      const [vocabulary, mean] = [
        [50_000, 1.8],
        [320, 1.8],
        [1000, 3],
      ][seed % 3] as [number, number];
      // Token losses are skewed, most are small, and rows differ in how hard they are.
      const steps = Array.from({ length: 300 }, () => {
        const targetTokens = 1 + Math.floor(random() * (seed % 2 === 0 ? 12 : 120));
        const hard = Math.max(0.2, mean + 0.6 * gaussian());
        let sum = 0;
        for (let t = 0; t < targetTokens; t++) sum += -Math.log(1 - random()) * hard;
        return { loss: sum / targetTokens, targetTokens, gradNorm: 0.2 - Math.log(1 - random()) };
      });
      alarms.push(...watch(steps, vocabulary));
    }
    expect(alarms).toEqual([]);
  });
});

describe("at the end", () => {
  it("an adapter whose B is still zero is named", async () => {
    const events = await run({ learningRate: 0, maxSteps: 3 });
    expect(warningsOf(events).map(({ code }) => code)).toEqual(["learning-rate-zero", "untrained-adapter"]);
    expect(warningsOf(events)[1]!.message).toMatch(/Every lora_B is still zero/);
    expect(warningsOf(await run({ maxSteps: 3 }))).toEqual([]);
  });

  it("so are steps that changed nothing, all or some", async () => {
    await using peft = await tinyPeft();
    const norm = peft.base.model.norm.weight;
    const good = await norm.readFloat32();
    norm.upload(new Float32Array(norm.size).fill(Number.POSITIVE_INFINITY));
    const events = await collect({ model: peft, dataset, args: { ...ARGS, maxSteps: 3 } });
    expect(warningsOf(events).flatMap(({ code }) => code ?? [])).toEqual(["steps-skipped", "untrained-adapter"]);
    expect(warningsOf(events).find(({ code }) => code === "steps-skipped")!.message).toMatch(/3 of 3 steps changed nothing/);
    norm.upload(good);
  });
});
