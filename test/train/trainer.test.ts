import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { getDevice } from "../../src/tensor/device.js";
import { Trainer } from "../../src/train/trainer.js";
import { errorOf, tempFolder } from "../io/files.js";
import { leavesNothing } from "../tensor/live.js";
import { ARGS, collect, countingExamples, loadTiny, losses, TINY, tinyPeft } from "./tiny.js";

const dataset = countingExamples();
const bytes = async (peft: PeftModel<CausalLM>) => Buffer.from((await peft.trainable.arena.values.readFloat32()).buffer);

describe("a run", () => {
  it("yields start, steps and done; the loss falls; nothing is left behind", () =>
    leavesNothing(async () => {
      await using peft = await tinyPeft();
      const live = getDevice().memory.live;
      const seen: number[] = [];
      const events = await collect({ model: peft, dataset, args: { ...ARGS, maxSteps: 12 } }, undefined, (event) => {
        if (event.type === "step") seen.push(getDevice().memory.live);
      });
      expect(events.map(({ type }) => type)).toEqual(["start", ...Array(12).fill("step"), "done"]);
      expect(losses(events).at(-1)!).toBeLessThan(losses(events)[0]! * 0.9);
      const targets = dataset.reduce((n, { labels }) => n + labels.filter((label, i) => i > 0 && label !== -100).length, 0);
      expect(events[0]).toMatchObject({ step: 0, totalSteps: 12, examples: 12, targetTokensPerEpoch: targets });
      expect(events.at(-1)).toMatchObject({ result: { steps: 12, epochs: 2, targetTokens: 2 * targets, skippedSteps: 0 } });
      // Every step in the middle of the run finds the same memory in use.
      expect(new Set(seen.slice(1, -1)).size).toBe(1);
      expect(getDevice().memory.live).toBeLessThan(live); // the gradients of the adapter are freed too
    }));

  it("is lazy, runs once, and refuses an empty data set and misnamed arguments", async () => {
    await using peft = await tinyPeft();
    const trainer = new Trainer({ model: peft, dataset, args: { ...ARGS, maxSteps: 1 } });
    await trainer.train();
    expect((await errorOf(trainer.train())).code).toBe("INVALID_ARGUMENT");
    expect(() => new Trainer({ model: peft, dataset: [] })).toThrow(/no examples/);
    expect(() => new Trainer({ model: peft, dataset, args: { learningrate: 1 } as never })).toThrow(/learningrate/);
  });

  it("writes an adapter that loads again, state, log and results", async () => {
    const outputDir = join(tempFolder(), "run");
    await using peft = await tinyPeft();
    await collect({ model: peft, dataset, args: { ...ARGS, outputDir, maxSteps: 3, saveSteps: 2 } });
    const names = readdirSync(outputDir);
    for (const name of [
      "adapter_model.safetensors",
      "adapter_config.json",
      "README.md",
      "trainer_state.json",
      "trainer_log.jsonl",
      "all_results.json",
      "checkpoint-2",
      "checkpoint-3",
    ])
      expect(names).toContain(name);
    expect(names).not.toContain(".lowrank.lock");
    const state = JSON.parse(readFileSync(join(outputDir, "trainer_state.json"), "utf8"));
    expect(state.log_history.map((entry: { step: number }) => entry.step)).toEqual([1, 2, 3]);
    expect(readFileSync(join(outputDir, "trainer_log.jsonl"), "utf8").trim().split("\n")).toHaveLength(3);
    await using again = await PeftModel.fromPretrained(await loadTiny(), outputDir);
    expect(Buffer.compare(await bytes(again), await bytes(peft))).toBe(0);
  });

  it("stops and frees when its loop is left, and saves nothing", () =>
    leavesNothing(async () => {
      const outputDir = join(tempFolder(), "run");
      await using peft = await tinyPeft();
      await collect(
        { model: peft, dataset, args: { ...ARGS, outputDir, maxSteps: 20 } },
        undefined,
        ({ type }) => type === "step",
      );
      expect(readdirSync(outputDir).filter((name) => name !== "trainer_log.jsonl")).toEqual([]);
    }));
});

describe("what is trained", () => {
  it("gives the same numbers with gradient checkpointing, dropout included", async () => {
    const run = async (gradientCheckpointing: boolean) => {
      await using peft = await tinyPeft({ loraDropout: 0.3 });
      const events = await collect({ model: peft, dataset, args: { ...ARGS, maxSteps: 4, gradientCheckpointing } });
      return { losses: losses(events), bytes: await bytes(peft) };
    };
    const [plain, checkpointed] = [await run(false), await run(true)];
    expect(checkpointed.losses).toEqual(plain.losses);
    expect(Buffer.compare(checkpointed.bytes, plain.bytes)).toBe(0);
  });

  it("trains all parameters, and a model from scratch, and saves a folder that loads", () =>
    leavesNothing(async () => {
      for (const make of [
        loadTiny,
        async () =>
          AutoModelForCausalLM.fromConfig(JSON.parse(readFileSync(join(TINY, "config.json"), "utf8")), {
            seed: 1,
            dtype: "float32",
          }),
      ]) {
        const outputDir = join(tempFolder(), "run");
        await using model = await make();
        const events = await collect({ model, dataset, args: { ...ARGS, outputDir, maxSteps: 20, saveStrategy: "no" } });
        expect(events[0]).toMatchObject({ trainableParameters: 139_584, allParameters: 139_584 });
        expect(losses(events).at(-1)!).toBeLessThan(losses(events)[0]! * 0.9);
        await using again = await AutoModelForCausalLM.fromPretrained(outputDir, { dtype: "float32" });
        const prompt = [[10, 11, 12, 13]];
        expect(await again.generateIds(prompt, { maxNewTokens: 6, doSample: false })).toEqual(
          await model.generateIds(prompt, { maxNewTokens: 6, doSample: false }),
        );
      }
    }));

  it("evaluates at its steps and at the end, and remembers the best", async () => {
    await using peft = await tinyPeft();
    const evalDataset = dataset.slice(0, 3);
    const events = await collect({
      model: peft,
      dataset,
      evalDataset,
      args: { ...ARGS, maxSteps: 5, evalStrategy: "steps", evalSteps: 2, perDeviceEvalBatchSize: 2 },
    });
    const evals = events.flatMap((event) => (event.type === "eval" ? [event] : []));
    expect(evals.map(({ step }) => step)).toEqual([2, 4, 5]);
    expect(evals.at(-1)!.loss).toBeLessThan(evals[0]!.loss);
    expect(evals[0]!.perplexity).toBeCloseTo(Math.exp(evals[0]!.loss));
    expect(events.at(-1)).toMatchObject({ result: { evalLoss: Math.min(...evals.map(({ loss }) => loss)) } });
  });
});

describe("a step that is not finite", () => {
  it("is skipped with every byte as it was, and several in a row stop the run", async () => {
    await using peft = await tinyPeft();
    const { arena } = peft.trainable;
    // A base that overflows: infinite logits give a loss that is not a number.
    const norm = peft.base.model.norm.weight;
    norm.upload(new Float32Array(norm.size).fill(Number.POSITIVE_INFINITY));
    const before = await bytes(peft);
    const events: string[] = [];
    const trainer = new Trainer({ model: peft, dataset, args: { ...ARGS, maxSteps: 20 } });
    const run = (async () => {
      for await (const event of trainer.run()) events.push(event.type === "step" ? `step ${event.skipped}` : event.type);
    })();
    const error = await errorOf(run);
    expect(error.code).toBe("NON_FINITE");
    expect(events.filter((event) => event === "step true")).toHaveLength(5);
    expect(Buffer.compare(Buffer.from((await arena.values.readFloat32()).buffer), before)).toBe(0);
  });
});

describe("the output folder", () => {
  it("is refused when it is not empty, locked while a run uses it, and overwritten when asked", async () => {
    const outputDir = join(tempFolder(), "run");
    const run = async (args: object, steps = 3) => {
      await using peft = await tinyPeft();
      return await collect({
        model: peft,
        dataset,
        args: { ...ARGS, outputDir, maxSteps: steps, saveSteps: 1, saveTotalLimit: 2, ...args },
      });
    };
    await run({}, 5);
    expect(
      readdirSync(outputDir)
        .filter((name) => name.startsWith("checkpoint"))
        .sort(),
    ).toEqual(["checkpoint-4", "checkpoint-5"]);
    expect((await errorOf(run({}))).message).toMatch(/not empty/);
    // The earlier run's higher steps neither survive nor push out the new ones.
    await run({ overwriteOutputDir: true }, 3);
    expect(
      readdirSync(outputDir)
        .filter((name) => name.startsWith("checkpoint"))
        .sort(),
    ).toEqual(["checkpoint-2", "checkpoint-3"]);

    await using peft = await tinyPeft();
    const trainer = new Trainer({ model: peft, dataset, args: { ...ARGS, outputDir, maxSteps: 3, overwriteOutputDir: true } });
    for await (const event of trainer.run()) {
      if (event.type !== "start") continue;
      const error = await errorOf(run({ overwriteOutputDir: true }));
      expect(error.code).toBe("LOCKED");
    }
    expect(existsSync(join(outputDir, ".lowrank.lock"))).toBe(false);
  });
});
