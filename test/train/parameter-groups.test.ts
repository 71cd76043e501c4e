/** Learning rate and decay of each parameter of a run: what transformers' Trainer leaves out of decay, and LoRA+. */
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import type { LoraConfigOptions } from "../../src/peft/config.js";
import { resolveArguments, type TrainingArguments } from "../../src/train/arguments.js";
import { createOptimizer, OPTIMIZERS, type OptimizerName } from "../../src/train/optimizer.js";
import { adapterTrainable, fullTrainable, type Trainable } from "../../src/train/trainable.js";
import { errorOf } from "../io/files.js";
import { ARGS, collect, countingExamples, loadTiny, TINY, tinyPeft } from "./tiny.js";

const MODELS = join(import.meta.dirname, "../golden/cases/models");

/** Names of what a step without gradient moves: what is decayed. */
async function decayed(trainable: Trainable, optim: OptimizerName = "sgd"): Promise<string[]> {
  const { arena } = trainable;
  // Nothing at zero, where decay is not seen.
  arena.values.upload(new Float32Array(arena.values.size).fill(1));
  const optimizer = createOptimizer(resolveArguments({ optim, weightDecay: 0.5, learningRate: 0.5 }), trainable);
  optimizer.step(0.5);
  const values = await arena.values.readFloat32();
  optimizer.dispose();
  return arena.segments.filter(({ begin }) => values[begin] !== 1).map(({ name }) => name);
}

const lastParts = (names: readonly string[]) => [...new Set(names.map((name) => name.split(".").slice(-2).join(".")))].sort();
const MATRICES = "down_proj embed_tokens gate_proj k_proj o_proj q_proj up_proj v_proj"
  .split(" ")
  .map((name) => `${name}.weight`);

describe("weight decay", () => {
  it.each([
    ["train/bases/qwen2_tied", MATRICES],
    ["models/llama_bias", [...MATRICES, "lm_head.weight"]],
    ["models/qwen3", MATRICES],
    ["models/olmo2", [...MATRICES, "lm_head.weight"]],
    ["models/gemma3", MATRICES],
  ])("of all parameters of %s leaves out norms and biases", async (folder, expected) => {
    const model = folder.startsWith("models/") ? join(MODELS, folder.slice(7), "model") : join(TINY, "../qwen2_tied");
    await using base = await AutoModelForCausalLM.fromPretrained(model, { dtype: "float32" });
    using trainable = fullTrainable(base);
    expect(trainable.arena.segments.length).toBeGreaterThan((await decayed(trainable)).length);
    expect(lastParts(await decayed(trainable))).toEqual([...expected].sort());
  });

  it.each(Object.keys(OPTIMIZERS).filter((name) => !name.startsWith("paged")) as OptimizerName[])(
    "of an adapter leaves them out under %s",
    async (optim) => {
      await using peft = await tinyPeft({
        targetModules: ["q_proj", "v_proj"],
        loraBias: false,
        modulesToSave: ["norm", "lm_head"],
        useDora: true,
      });
      using trainable = adapterTrainable(peft);
      expect(lastParts(await decayed(trainable, optim))).toEqual(
        [
          "lm_head.weight",
          "lora_A.weight",
          "lora_B.weight",
          "q_proj.lora_magnitude_vector",
          "v_proj.lora_magnitude_vector",
        ].sort(),
      );
    },
  );
});

describe("LoRA+", () => {
  /** How far one step of SGD moves each tensor. */
  async function moved(lora: LoraConfigOptions, args: TrainingArguments): Promise<Map<string, Float32Array>> {
    await using peft = await tinyPeft({ initLoraWeights: false, ...lora });
    const { arena } = peft.trainable;
    const before = await arena.values.readFloat32();
    const all = { ...ARGS, optim: "sgd", maxGradNorm: 0, warmupSteps: 0, learningRate: 1, maxSteps: 1, ...args } as const;
    await collect({ model: peft, dataset: countingExamples(4), args: all });
    const after = await arena.values.readFloat32();
    return new Map(
      arena.segments.map(({ name, begin, end }) => [name, after.slice(begin, end).map((x, i) => x - before[begin + i]!)]),
    );
  }

  it("is a rate of its own for B, vectors and LoRA on embeddings, in a run of the Trainer", async () => {
    const lora = { targetModules: ["q_proj", "embed_tokens"], modulesToSave: ["norm"], useDora: true };
    const plain = await moved(lora, {});
    const plus = await moved(lora, { loraplusLrRatio: 16, loraplusLrEmbedding: 4 });
    const seen = new Set<number>();
    for (const [name, delta] of plus) {
      const factor = /lora_embedding/.test(name) ? 4 : /lora_B|magnitude|norm/.test(name) ? 16 : 1;
      seen.add(factor);
      const wanted = plain.get(name)!.map((x) => factor * x);
      const size = Math.max(...wanted.map(Math.abs));
      expect(size, name).toBeGreaterThan(0);
      expect(Math.max(...delta.map((x, i) => Math.abs(x - wanted[i]!))) / size, name).toBeLessThan(5e-3);
    }
    expect([...seen].sort()).toEqual([1, 16, 4]);
  });

  it("is refused without an adapter and at a learning rate of 0", async () => {
    const dataset = countingExamples(4);
    await using model = await loadTiny();
    expect(await errorOf(collect({ model, dataset, args: { ...ARGS, loraplusLrRatio: 16 } }))).toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringContaining("loraplus_lr_ratio goes with an adapter"),
    });
    await using peft = await tinyPeft();
    const args = { ...ARGS, loraplusLrRatio: 16, learningRate: 0 };
    expect(await errorOf(collect({ model: peft, dataset, args }))).toMatchObject({
      code: "INVALID_ARGUMENT",
      message: "LoRA+ needs a learning rate above 0, found 0",
    });
  });
});
