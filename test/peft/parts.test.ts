/** Everything of an adapter beside LoRA on linears: copies of modules, biases, embeddings, single rows, tied heads. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { valueAndGrad } from "../../src/autograd/tape.js";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { weightedSum } from "../../src/ops/elementwise.js";
import { verifySaved } from "../../src/peft/adapter-file.js";
import { LoraConfig, type LoraConfigOptions } from "../../src/peft/config.js";
import { mergeIntoCheckpoint } from "../../src/peft/merge-checkpoint.js";
import { shapeOf } from "../../src/peft/model-shape.js";
import { getPeftModel, PeftModel } from "../../src/peft/peft-model.js";
import { planAdapter } from "../../src/peft/plan.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { gaussian } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";
import { adapterFolder, largestDifference, loadBase, logits, prompts } from "./models.js";

const configs: Record<string, [base: string, options: LoraConfigOptions]> = {
  "copies of embedding, head and norms": [
    "llama",
    { targetModules: ["q_proj"], modulesToSave: ["norm", "embed_tokens", "lm_head"] },
  ],
  "a copy of a container": ["qwen2", { targetModules: ["down_proj"], modulesToSave: ["self_attn"] }],
  "all biases": ["qwen2", { targetModules: ["v_proj", "o_proj"], bias: "all" }],
  "LoRA on both ends": ["llama", { targetModules: ["embed_tokens", "lm_head", "v_proj"], r: 3, loraAlpha: 7 }],
  "LoRA on tied ends": ["llama_tied", { targetModules: ["embed_tokens"], ensureWeightTying: true }],
  "LoRA on one end of a tied model": ["llama_tied", { targetModules: ["embed_tokens", "up_proj"] }],
  "a head of its own on a tied model": ["llama_tied", { targetModules: ["q_proj"], modulesToSave: ["lm_head"] }],
  "a tied copy asked for by the head": [
    "llama_tied",
    { targetModules: ["q_proj"], modulesToSave: ["lm_head"], ensureWeightTying: true },
  ],
  "rows of a tied table": ["llama_tied", { targetModules: ["q_proj"], trainableTokenIndices: [9, 1, 200] }],
  "rows of a tied table whose head has LoRA": [
    "llama_tied",
    { targetModules: ["q_proj", "lm_head"], trainableTokenIndices: [9, 1, 200] },
  ],
  "other rows at the two ends": [
    "llama_tied",
    { targetModules: ["q_proj"], trainableTokenIndices: { embed_tokens: [9, 1], lm_head: [2, 6, 3] } },
  ],
  "DoRA with biases": ["qwen2", { targetModules: ["q_proj", "down_proj"], useDora: true, bias: "lora_only" }],
  "DoRA on both ends": ["llama", { targetModules: ["embed_tokens", "lm_head", "o_proj"], useDora: true }],
  "rows of the head": ["llama", { targetModules: ["q_proj"], trainableTokenIndices: { lm_head: [4, 3] } }],
};

/** A fresh adapter whose every tensor is noise on top of its start. */
async function noisy(model: CausalLM, options: LoraConfigOptions, seed = 1): Promise<PeftModel<CausalLM>> {
  const peft = getPeftModel(model, { r: 4, loraAlpha: 8, ...options });
  const { arena } = peft.trainable;
  const start = await arena.values.readFloat32();
  const noise = gaussian(start.length, seed);
  arena.values.upload(start.map((value, i) => value + 0.2 * noise[i]!));
  return peft;
}

const temporary = async (body: (folder: string) => Promise<void>) => {
  const folder = mkdtempSync(join(tmpdir(), "lowrank-parts-"));
  await body(folder).finally(() => rmSync(folder, { recursive: true }));
};

describe.each(Object.entries(configs))("%s", (_, [base, options]) => {
  it("starts as the base, saves, loads, merges and unmerges as what it is", async () => {
    const model = await loadBase(base);
    const plain = await logits(model);
    await leavesNothing(() =>
      temporary(async (folder) => {
        const fresh = getPeftModel(model, options);
        expect(largestDifference(await logits(model), plain)).toBeLessThan(2e-6);
        fresh.unload();

        const peft = await noisy(model, options);
        const on = await logits(model);
        expect(largestDifference(on, plain)).toBeGreaterThan(1e-2);
        {
          using _off = peft.disableAdapter();
          expect(await logits(model)).toEqual(plain);
        }
        await peft.savePretrained(folder);
        await peft.loadAdapter(folder, "again");
        peft.setAdapter("again");
        expect(await logits(model)).toEqual(on);

        // A mixed batch: the first sequence with the adapter, the second without.
        const split = peft.selectRows([0, prompts[0]!.length, prompts.flat().length], ["again", null]);
        const rows = await logits(model, split);
        const width = rows.length / prompts.flat().length;
        const cut = prompts[0]!.length * width;
        expect(largestDifference(rows.slice(0, cut), on.slice(0, cut))).toBeLessThan(1e-5);
        expect(largestDifference(rows.slice(cut), plain.slice(cut))).toBeLessThan(1e-5);

        await peft.mergeAdapter({ safeMerge: true });
        expect(largestDifference(await logits(model), on)).toBeLessThan(1e-4);
        peft.unmergeAdapter();
        expect(await logits(model)).toEqual(on);
        peft.unload();
        expect(await logits(model)).toEqual(plain);
      }),
    );
    model.dispose();
  });

  it("merges into a checkpoint that answers alike", async () => {
    await using model = await loadBase(base);
    await temporary(async (folder) => {
      const peft = await noisy(model, options);
      const on = await logits(model);
      await (await peft.mergeAndUnload()).savePretrained(join(folder, "merged"));
      await using merged = await AutoModelForCausalLM.fromPretrained(join(folder, "merged"), { dtype: "float32" });
      expect(largestDifference(await logits(merged), on)).toBeLessThan(1e-4);
      const tied = JSON.parse(readFileSync(join(folder, "merged", "config.json"), "utf8")).tie_word_embeddings;
      expect(tied).toBe(model.lmHead.weight.borrowed);
    });
  });

  it("merges into the checkpoint on the disk as it does in memory", async () => {
    const model = await loadBase(base);
    await temporary(async (folder) => {
      const peft = await noisy(model, options);
      await peft.savePretrained(join(folder, "adapter"));
      const on = await logits(model);
      peft.dispose();
      await leavesNothing(async () => {
        const drift = await mergeIntoCheckpoint(adapterFolder("bases", base), join(folder, "adapter"), join(folder, "merged"), {
          maxShardBytes: 100_000,
        });
        expect(drift.rounding).toBeLessThan(1e-5);
        const merged = await AutoModelForCausalLM.fromPretrained(join(folder, "merged"), { dtype: "float32" });
        expect(largestDifference(await logits(merged), on)).toBeLessThan(1e-4);
        merged.dispose();
      });
    });
  });

  it("has the gradients that finite differences show", async () => {
    await using model = await loadBase(base);
    const peft = await noisy(model, options);
    const { arena } = peft.trainable;
    const labels = Int32Array.from([1, 4, -100, 5, 9, 2, 6, 3]);
    const lossOf = () => {
      const hidden = model.hiddenStates(packSequences(prompts, model.device));
      return weightedSum(model.tokenLogProb(hidden, Tensor.from(labels, [labels.length])).value, -1);
    };
    arena.zeroGrad();
    using taken = scope(() => valueAndGrad(lossOf));
    await taken.item();
    const gradients = await arena.gradients!.readFloat32();
    const values = await arena.values.readFloat32();
    const direction = gaussian(values.length, 77);
    // DoRA's lengths are constants for the gradient, so only along magnitudes is it the whole truth.
    const moves = (name: string) => !options.useDora || name.endsWith("magnitude_vector");
    for (const { name, begin, end } of arena.segments) if (!moves(name)) direction.fill(0, begin, end);
    const at = async (step: number) => {
      arena.values.upload(values.map((value, i) => value + step * direction[i]!));
      using loss = scope(lossOf);
      return loss.item();
    };
    const step = 1e-3;
    const wanted = ((await at(step)) - (await at(-step))) / (2 * step);
    let got = 0;
    for (const { begin, end } of arena.segments) for (let i = begin; i < end; i++) got += gradients[i]! * direction[i]!;
    expect(Math.abs(got - wanted) / Math.abs(wanted)).toBeLessThan(1e-2);
    peft.unload();
  });
});

it("a copy of a tied head does not go with rows of its embedding", async () => {
  await using model = await loadBase("llama_tied");
  const options = { targetModules: ["q_proj"], modulesToSave: ["lm_head"], trainableTokenIndices: [9, 1] };
  expect(codeOf(() => getPeftModel(model, options))).toBe("INVALID_CONFIG");
});

describe("merging into a checkpoint", () => {
  it("refuses another base, a missing bias, and a start that is not in the file; and adds lora_bias", async () => {
    await temporary(async (folder) => {
      const merge = (base: string, adapter: string, to: string, options = {}) =>
        mergeIntoCheckpoint(adapterFolder("bases", base), adapter, join(folder, to), options);
      const drawn = join(folder, "drawn");
      cpSync(adapterFolder("adapter-pissa-raw", "adapter"), drawn, { recursive: true });
      const config = readFileSync(join(drawn, "adapter_config.json"), "utf8");
      writeFileSync(join(drawn, "adapter_config.json"), config.replace('"pissa"', '"pissa_niter_4"'));
      await expect(merge("llama", drawn, "1")).rejects.toMatchObject({
        code: "UNSUPPORTED",
        message: expect.stringContaining("drawn at random"),
      });
      const unmergeable = adapterFolder("adapter-lora-lorabias-unmergeable", "adapter");
      await expect(merge("llama", unmergeable, "2")).rejects.toMatchObject({ code: "UNSUPPORTED" });
      {
        const model = await loadBase("qwen2");
        const peft = await PeftModel.fromPretrained(model, adapterFolder("adapter-lora-lorabias", "adapter"));
        const on = await logits(model);
        await peft.savePretrained(join(folder, "adapter"));
        peft.dispose();
        await merge("qwen2", adapterFolder("adapter-lora-lorabias", "adapter"), "3");
        await using merged = await AutoModelForCausalLM.fromPretrained(join(folder, "3"), { dtype: "float32" });
        expect(largestDifference(await logits(merged), on)).toBeLessThan(1e-4);
      }
      {
        const model = await loadBase("llama");
        const peft = getPeftModel(model, { targetModules: ["q_proj"] });
        await peft.savePretrained(join(folder, "own"));
        peft.dispose();
        const other = adapterFolder("bases", "qlora");
        await expect(mergeIntoCheckpoint(other, join(folder, "own"), join(folder, "4"))).rejects.toMatchObject({
          code: "ADAPTER_MISMATCH",
        });
      }
    });
  });

  it("what was saved is read again, and a change is told", async () => {
    await using model = await loadBase();
    await temporary(async (folder) => {
      const peft = getPeftModel(model, { targetModules: ["q_proj"] });
      await peft.savePretrained(folder);
      const plans = new Map([["", peft.trainable.plan]]);
      await verifySaved(folder, plans);
      const path = join(folder, "adapter_model.safetensors");
      const bytes = readFileSync(path);
      bytes[bytes.length - 1]! ^= 1;
      writeFileSync(path, bytes);
      await expect(verifySaved(folder, plans)).rejects.toMatchObject({ code: "CHECKPOINT" });
      peft.unload();
    });
  });
});

it("DoRA follows its matrices when a frozen adapter trains again, and the base when it is merged", async () => {
  const model = await loadBase();
  await leavesNothing(async () => {
    const peft = await noisy(model, { targetModules: ["q_proj", "embed_tokens"], useDora: true });
    const adapter = peft.trainable;
    adapter.setTrainable(false);
    const before = await logits(model);
    expect(await logits(model)).toEqual(before);
    adapter.setTrainable(true);
    const values = await adapter.arena.values.readFloat32();
    adapter.arena.values.upload(values.map((value) => value * 1.3));
    const after = await logits(model);
    expect(largestDifference(after, before)).toBeGreaterThan(1e-2);
    adapter.setTrainable(false);
    expect(await logits(model)).toEqual(after);
    await peft.mergeAdapter();
    peft.unmergeAdapter();
    expect(await logits(model)).toEqual(after);
    peft.unload();
  });
  model.dispose();
});

describe("an adapter's parts", () => {
  const shape = async (base: string) => {
    await using model = await loadBase(base);
    return shapeOf(model);
  };
  it.each([
    ["llama", { trainableTokenIndices: [1, 1] }, /1 more than once/],
    ["llama", { trainableTokenIndices: [] }, /no tokens/],
    ["llama", { trainableTokenIndices: { q_proj: [1] } }, /'q_proj' is no embedding/],
    ["llama", { targetModules: ["embed_tokens"], trainableTokenIndices: [1] }, /target_modules: one of the two/],
    ["llama", { targetModules: ["embed_tokens"], loraBias: true }, /lora_bias is not for embeddings/],
    ["llama_tied", { trainableTokenIndices: { embed_tokens: [1], lm_head: [2] }, ensureWeightTying: true }, /tied to it/],
  ] as const)("%s refuses %j", async (base, options, message) => {
    const config = new LoraConfig({ targetModules: ["q_proj"], ...(options as unknown as LoraConfigOptions) });
    const model = await shape(base);
    expect(() => planAdapter(model, config)).toThrow(message);
  });

  it("of two active adapters only one may replace a module", async () => {
    await using model = await loadBase();
    const peft = getPeftModel(model, { targetModules: ["q_proj"], modulesToSave: ["lm_head"] });
    await peft.addAdapter("other", new LoraConfig({ targetModules: ["q_proj"], modulesToSave: ["lm_head"] }));
    expect(codeOf(() => peft.setAdapter(["default", "other"]))).toBe("INVALID_ARGUMENT");
    const both = { adapterNames: ["default", "other"] };
    await expect(peft.mergeAdapter(both)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    await expect(peft.mergeAndUnload(both)).rejects.toMatchObject({ code: "INVALID_ARGUMENT" });
    peft.setAdapter("other");
    peft.unload();
  });

  it("that were trained on other embeddings are refused, unless asked for", async () => {
    await using model = await loadBase();
    const folder = adapterFolder("adapter-lora-head", "adapter");
    const values = await model.lmHead.weight.dense!.readFloat32();
    model.lmHead.weight.dense!.upload(values.map((value) => value * 1.5));
    await expect(PeftModel.fromPretrained(model, folder)).rejects.toMatchObject({ code: "ADAPTER_MISMATCH" });
    (await PeftModel.fromPretrained(model, folder, { ignoreMismatchedBase: true })).unload();
  });
});
