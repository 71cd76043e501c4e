import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { Batches, makeUnits } from "../../src/data/batches.js";
import type { LowrankError } from "../../src/errors.js";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { LoraConfig } from "../../src/peft/config.js";
import { getPeftModel, PeftModel } from "../../src/peft/peft-model.js";
import { getDevice } from "../../src/tensor/device.js";
import { scope } from "../../src/tensor/scope.js";
import { resolveArguments } from "../../src/train/arguments.js";
import { neftune } from "../../src/train/neftune.js";
import { createOptimizer } from "../../src/train/optimizer.js";
import { TrainStep } from "../../src/train/step.js";
import { goldenFolder } from "../golden/folder.js";
import { tempFolder } from "../io/files.js";
import { failsAtEveryAllocation, stillWaiting } from "../tensor/fail-allocation.js";
import { ARGS, collect, countingExamples, loadTiny, losses, TINY, tinyPeft } from "./tiny.js";

const QLORA = join(goldenFolder("peft"), "bases/qlora");
const LORA = { r: 4, targetModules: "all-linear", initLoraWeights: false } as const;
const hex = (values: ArrayBufferView) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("base64");
const bytesOf = async (peft: PeftModel<CausalLM>) => hex(await peft.trainable.arena.values.readFloat32());

/** Logits of two sequences. */
async function forward(model: CausalLM): Promise<string> {
  const rows = [
    [3, 1, 4, 1, 5],
    [9, 2, 6],
  ];
  using logits = scope(() => model.logits(model.hiddenStates(packSequences(rows, model.device))));
  return hex(await logits.readFloat32());
}

describe("out of memory at any allocation: a typed error, nothing left behind, and the object goes on", () => {
  it.each([
    ["in 32 bits", TINY, {}],
    ["quantised on loading", TINY, { loadIn4bit: true }],
    ["without double quantisation", TINY, { loadIn4bit: true, bnb4bitUseDoubleQuant: false }],
    ["a bitsandbytes checkpoint", QLORA, {}],
  ])("loading a model %s", async (_, folder, options) => {
    const failed = await failsAtEveryAllocation(async () => {
      await using model = await AutoModelForCausalLM.fromPretrained(folder, { dtype: "float32", ...options });
      return forward(model);
    });
    expect(failed).toBeGreaterThan(30);
  });

  it("a model from a config", async () => {
    const config = JSON.parse(readFileSync(join(TINY, "config.json"), "utf8"));
    await failsAtEveryAllocation(async () => {
      await using model = AutoModelForCausalLM.fromConfig(config, { seed: 1, dtype: "float32" });
      return forward(model);
    });
  });

  it("adding, loading, merging and unmerging adapters, on a dense and on a 4-bit base", async () => {
    for (const loadIn4bit of [false, true]) {
      await using base = await AutoModelForCausalLM.fromPretrained(TINY, { dtype: "float32", loadIn4bit });
      const folder = join(tempFolder(), "adapter");
      await failsAtEveryAllocation(async () => {
        const peft = getPeftModel(base, LORA);
        try {
          await peft.savePretrained(folder);
          return await bytesOf(peft);
        } finally {
          peft.unload();
        }
      });
      const peft = new PeftModel(base);
      await peft.loadAdapter(folder, "one");
      await peft.loadAdapter(folder, "two");
      await failsAtEveryAllocation(async () => {
        await peft.loadAdapter(folder, "three", { isTrainable: true });
        peft.setAdapter(["one", "three"]);
        try {
          return await forward(base);
        } finally {
          peft.setAdapter(["one", "two"]);
          peft.deleteAdapter("three");
        }
      });
      const failed = await failsAtEveryAllocation(async () => {
        await peft.mergeAdapter({ safeMerge: true });
        try {
          return await forward(base);
        } finally {
          peft.unmergeAdapter();
        }
      });
      expect(failed).toBeGreaterThan(loadIn4bit ? 100 : 50);
      peft.unload();
    }
  });

  it.each([
    ["a dense base", false, {}],
    ["a 4-bit base, quantised again", true, { safeMerge: true }],
    ["a 4-bit base, dense afterwards", true, { dtype: "bfloat16" as const }],
  ])("merging for good into %s: until it succeeds the model is what it was", async (_, loadIn4bit, options) => {
    const folder = join(tempFolder(), "adapter");
    const load = async () => {
      const peft = new PeftModel(await AutoModelForCausalLM.fromPretrained(TINY, { dtype: "float32", loadIn4bit }));
      if (!existsSync(folder)) {
        peft.addAdapter("made", new LoraConfig(LORA));
        await peft.savePretrained(folder, { selectedAdapters: ["made"] });
        peft.deleteAdapter("made");
      }
      await peft.loadAdapter(join(folder, "made"), "default");
      peft.setAdapter("default");
      return peft;
    };
    const memory = async ({ device }: CausalLM) => {
      await device.synchronize();
      return { live: device.memory.live, tensors: device.memory.tensors };
    };
    const outside = getDevice().memory.live;
    let undisturbed: { bits: string; live: number };
    {
      await using base = await (await load()).mergeAndUnload(options);
      undisturbed = { bits: await forward(base), live: (await memory(base)).live - outside };
    }
    const peft = await load();
    await using base = peft.base;
    const [bits, before] = [await forward(base), await memory(base)];
    expect(bits).not.toBe(undisturbed.bits);
    for (let n = 1; ; n++) {
      base.device.addon.failAllocation(n);
      const error = await peft.mergeAndUnload(options).then(
        () => undefined,
        (caught: LowrankError) => caught,
      );
      const waiting = stillWaiting(n);
      if (error === undefined) {
        expect(waiting, `the failure of allocation ${n} was swallowed`).toBe(true);
        expect(n).toBeGreaterThan(50);
        break;
      }
      expect(error).toMatchObject({ code: "OUT_OF_MEMORY", details: { needed: expect.any(Number), free: expect.any(Number) } });
      expect(await memory(base), `allocation ${n}: ${error.stack}`).toEqual(before);
      expect(await forward(base), `allocation ${n}`).toBe(bits);
    }
    expect(await forward(base)).toBe(undisturbed.bits);
    expect((await memory(base)).live - outside).toBe(undisturbed.live);
  });

  it("saving a model in another dtype", async () => {
    await using model = await AutoModelForCausalLM.fromPretrained(TINY, { dtype: "float32", loadIn4bit: true });
    const folder = join(tempFolder(), "saved");
    await failsAtEveryAllocation(async () => {
      await model.savePretrained(folder, { dtype: "bfloat16" });
      return hex(readFileSync(join(folder, "model.safetensors")));
    });
  });

  it("generating one answer, a batch whose cache grows, and with adapters", async () => {
    await using peft = await tinyPeft({ initLoraWeights: false });
    const prompts = [Array.from({ length: 60 }, (_, i) => i + 1), [5, 6, 7]];
    const failed = await failsAtEveryAllocation(async () => [
      await peft.base.generateIds(prompts, { maxNewTokens: 8, doSample: false, eosTokenId: [] }),
      await peft.base.generateIds([[1, 2, 3]], { maxNewTokens: 2, doSample: true, seed: 3, adapter: null }),
    ]);
    expect(failed).toBeGreaterThan(100);
  });

  it.each([
    ["dropout and accumulation", { gradientCheckpointing: false }, "adamw_torch"],
    ["gradient checkpointing", { gradientCheckpointing: true }, "adamw_torch"],
    ["8-bit moments and NEFTune", { labelSmoothing: 0.1, embeddingNoise: neftune(5, 1) }, "adamw_8bit"],
    ["Adafactor", {}, "adafactor"],
  ] as const)("a training step with %s changes nothing unless all of it is enqueued", async (_, options, optim) => {
    await using peft = await tinyPeft({ loraDropout: 0.2, r: optim === "adamw_8bit" ? 64 : 4 });
    const { arena } = peft.trainable;
    const optimizer = createOptimizer(resolveArguments({ optim, weightDecay: 0.1 }), {
      arena,
      embeddings: new Set(),
      plan: undefined,
    });
    const step = new TrainStep(peft.base, optimizer, { seed: 1, ...options });
    const { microBatches } = new Batches(makeUnits(countingExamples(4)), { batchSize: 2, accumulationSteps: 2, seed: 1 }).at({
      epoch: 0,
      index: 0,
    });
    const start = new Float32Array(await arena.values.readFloat32());
    const tensors = { values: arena.values, ...optimizer.state };
    const state = async () => {
      const entries = Object.entries(tensors).map(async ([name, tensor]) => [name, hex(await tensor.read())]);
      return Object.fromEntries(await Promise.all(entries));
    };
    const reset = () => {
      arena.zeroGrad();
      arena.values.upload(start);
      for (const tensor of Object.values(optimizer.state))
        tensor.upload(tensor.dtype === "uint8" ? new Uint8Array(tensor.size) : new Float32Array(tensor.size));
    };
    let after: unknown;
    const failed = await failsAtEveryAllocation(async () => {
      reset();
      const before = await state();
      try {
        const report = await step.run(microBatches, 0.01, 7);
        after ??= await state();
        return { report, state: await state() };
      } catch (error) {
        // Either nothing of the step happened, or all of it and only its report found no memory.
        const found = await state();
        const gradients = (await arena.gradients!.readFloat32()).some((g) => g !== 0);
        expect(found).toEqual(gradients ? after : before);
        throw error;
      }
    });
    expect(failed).toBeGreaterThan(150);
    optimizer.dispose();
  });

  it.each(["adamw_torch", "adamw_8bit", "adafactor"] as const)(
    "a whole run of %s with evaluation and checkpoints",
    async (optim) => {
      await using peft = await tinyPeft({ loraDropout: 0.1, r: optim === "adamw_8bit" ? 64 : 4 });
      const dataset = countingExamples(3);
      const start = new Float32Array(await peft.trainable.arena.values.readFloat32());
      const failed = await failsAtEveryAllocation(async () => {
        peft.trainable.arena.values.upload(start);
        const outputDir = join(tempFolder(), "run");
        const args = { ...ARGS, optim, outputDir, maxSteps: 1, evalStrategy: "steps" } as const;
        const events = await collect({ model: peft, dataset, evalDataset: dataset.slice(0, 1), args });
        const file = (name: string) => hex(readFileSync(join(outputDir, name)));
        return [losses(events), file("adapter_model.safetensors"), file("checkpoint-1/optimizer.safetensors")];
      });
      expect(failed).toBeGreaterThan(100);
    },
  );

  it("full-parameter training, which then starts from the weights it had", async () => {
    const dataset = countingExamples(2);
    await using model = await loadTiny();
    await collect({ model, dataset, args: { ...ARGS, maxSteps: 1 } });
    const start = await Promise.all(model.parameterSlots().map(({ tensor }) => tensor.readFloat32()));
    await failsAtEveryAllocation(async () => {
      for (const [i, { tensor }] of model.parameterSlots().entries()) tensor.upload(start[i]!);
      const events = await collect({ model, dataset, args: { ...ARGS, maxSteps: 1 } });
      return [losses(events), await forward(model)];
    });
  });
});
