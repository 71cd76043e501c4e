import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { goldenFolder } from "../golden/folder.js";

const folder = join(goldenFolder("models"), "llama", "model");
const prompt = Array.from({ length: 70 }, (_, i) => (i * 37) % 320);

describe.skipIf(!existsSync(folder))("generation", () => {
  let model: CausalLM;
  const memory = () => {
    const { live, tensors } = model.device.memory;
    return { live, tensors };
  };
  beforeAll(async () => {
    model = await AutoModelForCausalLM.fromPretrained(folder, { dtype: "float32" });
  });
  afterAll(() => model?.dispose());

  const collect = async (options: Parameters<CausalLM["stream"]>[1]) => {
    const ids: number[] = [];
    for await (const { tokenId } of model.stream(prompt, options)) ids.push(tokenId);
    return ids;
  };
  const greedy = { doSample: false, eosTokenId: null, maxNewTokens: 80 };

  it("gives the same tokens as forward passes over the whole text, across blocks of the cache", async () => {
    const ids = await collect(greedy);
    expect(ids).toHaveLength(80);
    const all = [...prompt, ...ids];
    for (const length of [70, 100, 127, 128, 129, 149]) {
      expect(await model.generateIds([all.slice(0, length)], { ...greedy, maxNewTokens: 1 })).toEqual([[all[length]]]);
    }
  });

  it("does not depend on what else is in the batch, nor on the length of prefill chunks", async () => {
    const prompts = [prompt.slice(0, 3), prompt, Array.from({ length: 230 }, (_, i) => (i * 11) % 320)];
    const together = await model.generateIds(prompts, { ...greedy, maxNewTokens: 12 });
    for (const [i, alone] of prompts.entries()) {
      expect(await model.generateIds([alone], { ...greedy, maxNewTokens: 12, prefillChunk: 50 })).toEqual([together[i]]);
    }
  });

  it("stops at the end of the context", async () => {
    const long = Array.from({ length: 250 }, (_, i) => i);
    expect(await model.generateIds([long], { ...greedy, maxNewTokens: 50 })).toHaveProperty("0.length", 6);
    await expect(model.generateIds([Array(256).fill(1)], greedy)).rejects.toThrow(/256 tokens, the model's context holds 256/);
  });

  it("draws the same tokens from the same seed, others from another", async () => {
    const options = { temperature: 1.5, topK: 0, eosTokenId: null, maxNewTokens: 20 };
    const first = await collect({ ...options, seed: 5 });
    expect(await collect({ ...options, seed: 5 })).toEqual(first);
    expect(await collect({ ...options, seed: 6 })).not.toEqual(first);
  });

  it("runs several streams on one model without mixing them", async () => {
    const options = { temperature: 1.2, eosTokenId: null, maxNewTokens: 25 };
    const alone = await Promise.all([1, 2, 3].map(async (seed) => collect({ ...options, seed })));
    for (const seed of [1, 2, 3]) expect(await collect({ ...options, seed })).toEqual(alone[seed - 1]);
  });

  it("gives all memory back: at the end, on break, on abort, on refusal", async () => {
    const before = memory();
    await collect(greedy);
    expect(memory()).toEqual(before);
    for await (const _ of model.stream(prompt, greedy)) break;
    expect(memory()).toEqual(before);

    const abort = new AbortController();
    const reason = new Error("enough");
    const aborted = (async () => {
      let tokens = 0;
      for await (const _ of model.stream(prompt, { ...greedy, signal: abort.signal })) if (++tokens === 3) abort.abort(reason);
    })();
    await expect(aborted).rejects.toBe(reason);
    expect(memory()).toEqual(before);
    await expect(model.generateIds([[1, 320]], greedy)).rejects.toThrow(/320 is not a token id/);
    expect(memory()).toEqual(before);
  });

  it("takes nothing before the first token is asked for, and checks options at once", () => {
    const before = memory();
    model.stream(prompt, greedy);
    expect(memory()).toEqual(before);
    expect(() => model.stream(prompt, { maxNewTokens: -1 })).toThrow(/maxNewTokens/);
  });

  it("lets timers run between tokens", async () => {
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await collect(greedy);
    clearInterval(timer);
    expect(ticks).toBeGreaterThan(5);
  });
});
