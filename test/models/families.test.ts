import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { valueAndGrad } from "../../src/autograd/tape.js";
import { KvCache } from "../../src/generate/kv-cache.js";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM, ForwardOptions } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM, resolveConfig, supportedModelTypes } from "../../src/models/registry.js";
import { Linear } from "../../src/nn/linear.js";
import { weightedSum } from "../../src/ops/elementwise.js";
import { mergeIntoCheckpoint } from "../../src/peft/merge-checkpoint.js";
import { getPeftModel } from "../../src/peft/peft-model.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { leavesNothing } from "../tensor/live.js";
import { FAMILY_CONFIGS } from "./family-table.js";

const sequences = [
  [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9],
  [2, 7, 1, 8, 2, 8],
];

const values = async (make: () => Tensor) => {
  using tensor = scope(make);
  return await tensor.readFloat32();
};
const logits = (model: CausalLM, rows: readonly (readonly number[])[] = sequences) =>
  values(() => model.logits(model.hiddenStates(packSequences(rows, model.device))));
const distance = (a: Float32Array, b: Float32Array) => {
  expect(a.length).toBe(b.length);
  return a.reduce((worst, x, i) => Math.max(worst, Math.abs(x - b[i]!)), 0);
};
const largest = (a: Float32Array) => a.reduce((worst, x) => Math.max(worst, Math.abs(x)), 0);

it("every family is in the table", () => {
  expect(new Set(FAMILY_CONFIGS.map(([, { model_type }]) => model_type))).toEqual(new Set(supportedModelTypes()));
});

describe.each(FAMILY_CONFIGS)("%s", (_, json) => {
  const make = () => AutoModelForCausalLM.fromConfig(json, { seed: 3, dtype: "float32" });
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "lowrank-family-"));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("has no key without effect, the family's defaults included", () => expect(resolveConfig(json).unread).toEqual([]));

  it("packed sequences see nothing of each other", () =>
    leavesNothing(async () => {
      await using model = make();
      const alone = await Promise.all(sequences.map((ids) => logits(model, [ids])));
      const packed = await logits(model);
      expect(largest(packed)).toBeGreaterThan(0.1);
      expect(distance(packed, Float32Array.from(alone.flatMap((rows) => [...rows])))).toBeLessThan(1e-5);
    }));

  it("through the cache, in chunks and token by token, gives the logits of the whole", () =>
    leavesNothing(async () => {
      await using model = make();
      using decoder = model.decoder(null);
      using cache = new KvCache(decoder.kvShape, sequences.length);
      const lengths = sequences.map((ids) => ids.length);
      const done = [0, 0];
      for (const take of [[5, 2], [4, 3], ...Array.from({ length: 6 }, () => [1, 1])]) {
        const tokens = sequences.map((ids, i) => ids.slice(done[i], done[i]! + take[i]!));
        for (const [i, ids] of tokens.entries()) done[i]! += ids.length;
        const got = await values(() => decoder.step(tokens, cache, lengths));
        let row = 0;
        for (const [i, ids] of tokens.entries()) {
          if (ids.length === 0) continue;
          const hidden = (await logits(model, [sequences[i]!])).subarray((done[i]! - 1) * 17, done[i]! * 17);
          expect(distance(got.subarray(row * 17, ++row * 17), hidden)).toBeLessThan(1e-5);
        }
      }
      expect(done).toEqual(lengths);
    }));

  it("greedy tokens are those of a forward pass over all tokens so far", () =>
    leavesNothing(async () => {
      // Keys of a dynamic rope keep the rotation of the length that they were made at.
      const steps = json.rope_scaling && (json.rope_scaling as { rope_type?: string }).rope_type === "dynamic" ? 2 : 8;
      await using model = make();
      const prompts = [[3, 1, 4, 1], [2]];
      const options = { maxNewTokens: steps, doSample: false, eosTokenId: null, prefillChunk: 3 };
      for (const [i, tokens] of (await model.generateIds(prompts, options)).entries()) {
        expect(tokens.length).toBe(steps);
        for (const [n, token] of tokens.entries()) {
          const last = (await logits(model, [[...prompts[i]!, ...tokens.slice(0, n)]])).slice(-17);
          expect(last[token]).toBeGreaterThan(largest(last.map((x) => x - Math.min(...last))) + Math.min(...last) - 1e-5);
        }
      }
    }));

  it("is saved and loaded with the same bytes, in 4 bits when asked", () =>
    leavesNothing(async () => {
      const expected = await (async () => {
        await using model = make();
        await model.savePretrained(join(folder, "dense"));
        return await logits(model);
      })();
      await using again = await AutoModelForCausalLM.fromPretrained(join(folder, "dense"), { dtype: "float32" });
      expect(await logits(again)).toEqual(expected);

      await using small = await AutoModelForCausalLM.fromPretrained(join(folder, "dense"), {
        dtype: "float32",
        loadIn4bit: true,
      });
      for (const [path, module] of small.modules())
        if (module instanceof Linear) expect([path, module.weight.kind]).toEqual([path, path === "lm_head" ? "dense" : "4bit"]);
      const rounded = await logits(small);
      expect(distance(rounded, expected)).toBeGreaterThan(1e-4);
      await small.savePretrained(join(folder, "4bit"));
      await using stored = await AutoModelForCausalLM.fromPretrained(join(folder, "4bit"), { dtype: "float32" });
      expect(await logits(stored)).toEqual(rounded);
      await small.savePretrained(join(folder, "dequantized"), { dtype: "float32" });
      await using wide = await AutoModelForCausalLM.fromPretrained(join(folder, "dequantized"), { dtype: "float32" });
      expect(distance(await logits(wide), rounded)).toBeLessThan(2e-5);
    }));

  it("adapters on all linears and the embedding act as what merging them gives", () =>
    leavesNothing(async () => {
      await using model = make();
      const base = await logits(model);
      await model.savePretrained(join(folder, "unmerged"));
      const names = [...model.modules()].flatMap(([path, module]) =>
        module instanceof Linear && path !== "lm_head" ? [path.split(".").at(-1)!] : [],
      );
      const targetModules = [...new Set(names), "embed_tokens"];
      await using peft = getPeftModel(model, { r: 2, loraAlpha: 2, targetModules, initLoraWeights: false }, { seed: 5 });
      const adapted = await logits(model);
      expect(distance(adapted, base)).toBeGreaterThan(1e-3);
      await peft.mergeAdapter();
      expect(distance(await logits(model), adapted)).toBeLessThan(5e-5);
      peft.unmergeAdapter();
      expect(await logits(model)).toEqual(adapted);
      // The same through files, tensor by tensor.
      await peft.savePretrained(join(folder, "adapter"));
      const options = { ignoreMismatchedBase: true };
      await mergeIntoCheckpoint(join(folder, "unmerged"), join(folder, "adapter"), join(folder, "merged"), options);
      await using merged = await AutoModelForCausalLM.fromPretrained(join(folder, "merged"), { dtype: "float32" });
      expect(distance(await logits(merged), adapted)).toBeLessThan(5e-5);
    }));

  it("trains adapters on a 4-bit base, with the same bytes when layers are recomputed", () =>
    leavesNothing(async () => {
      await (async () => {
        await using model = make();
        await model.savePretrained(join(folder, "base"));
      })();
      await using model = await AutoModelForCausalLM.fromPretrained(join(folder, "base"), { dtype: "float32", loadIn4bit: true });
      await using peft = getPeftModel(model, { r: 2, targetModules: "all-linear", initLoraWeights: false }, { seed: 5 });
      const { arena } = peft.trainable;
      const loss = (options: ForwardOptions = {}) => {
        const hidden = model.hiddenStates(packSequences(sequences, model.device), options);
        const next = Int32Array.from(sequences.flatMap((ids) => [...ids.slice(1), -100]));
        return weightedSum(model.tokenLogProb(hidden, Tensor.from(next, [next.length])).value, -1 / 19);
      };
      const gradients = async (options: ForwardOptions) => {
        arena.zeroGrad();
        valueAndGrad(() => loss(options)).dispose();
        return (await arena.gradients!.read()) as Float32Array;
      };
      const plain = await gradients({});
      expect(await gradients({ checkpointing: true })).toEqual(plain);
      // Along the gradient the loss changes by its squared length.
      const start = (await arena.values.read()) as Float32Array;
      const length = Math.sqrt(plain.reduce((sum, x) => sum + x * x, 0));
      const at = async (step: number) => {
        arena.values.upload(start.map((x, i) => x + (step * plain[i]!) / length));
        return (await values(loss))[0]!;
      };
      expect(((await at(1e-3)) - (await at(-1e-3))) / 2e-3 / length).toBeCloseTo(1, 1.5);
    }));
});
