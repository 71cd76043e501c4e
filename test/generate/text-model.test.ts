import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { Attention } from "../../src/models/attention.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { AdapterPart, LoraPair } from "../../src/nn/adapter-part.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { goldenFolder, sharedFolder } from "../golden/folder.js";

const real = join(sharedFolder(), "models", "smollm2-135m-instruct-nf4");
const greedyCases = join(goldenFolder("real"), "greedy", "case.json");

describe.skipIf(!existsSync(real) || !existsSync(greedyCases))("text from a real model", () => {
  let model: CausalLM;
  const spec = existsSync(greedyCases) ? JSON.parse(readFileSync(greedyCases, "utf8")) : { cases: [] };
  const [first] = spec.cases;
  beforeAll(async () => {
    model = await AutoModelForCausalLM.fromPretrained(real, { dtype: "float32" });
  });
  afterAll(() => model?.dispose());
  const messages = [{ role: "user", content: first?.prompt }];

  it("answers messages through the chat template, piece by piece, as the reference did", async () => {
    const pieces: string[] = [];
    for await (const { text } of model.stream(messages, { doSample: false, maxNewTokens: 24 })) pieces.push(text);
    expect(pieces).toHaveLength(24);
    expect(pieces.filter((piece) => piece !== "").length).toBeGreaterThan(20);
    expect(first.text.startsWith(pieces.join(""))).toBe(true);
    expect(pieces.join("").length).toBeGreaterThan(60);
  });

  it("ends before a stop text", async () => {
    const stopped = await model.generate(messages, { doSample: false, maxNewTokens: 40, stop: ["Paris", " known as"] });
    expect(stopped).toBe(first.text.slice(0, first.text.indexOf("Paris")));
  });

  it("continues plain text", async () => {
    expect(await model.generate("The capital of France is", { doSample: false, maxNewTokens: 4 })).toMatch(/Paris/);
  });
});

const llama = join(goldenFolder("models"), "llama", "model");

describe.skipIf(!existsSync(llama))("adapters in generation", () => {
  it("are captured when the call is made, and mix with nothing", async () => {
    await using model = await AutoModelForCausalLM.fromPretrained(llama, { dtype: "float32" });
    const { qProj, vProj } = model.model.layers[1]!.selfAttn as Attention;
    for (const [layer, seed] of [
      [qProj, 1],
      [vProj, 2],
    ] as const) {
      for (const [name, spread] of [
        ["a", 0.4],
        ["b", 0.7],
      ] as const) {
        const values = (n: number) => Float32Array.from({ length: n }, (_, i) => spread * Math.sin((i + 1) * 12.9898 * seed));
        const { inFeatures, outFeatures } = layer.weight;
        layer.adapters.parts.set(
          name,
          new AdapterPart({
            pair: new LoraPair(
              Tensor.from(values(4 * inFeatures), [4, inFeatures]),
              Tensor.from(values(4 * outFeatures), [outFeatures, 4]),
              2,
            ),
          }),
        );
      }
    }
    const prompt = [5, 9, 77, 200];
    const options = { doSample: false, eosTokenId: null, maxNewTokens: 12 };
    const ids = async (stream: AsyncIterable<{ tokenId: number }>) => {
      const list: number[] = [];
      for await (const { tokenId } of stream) list.push(tokenId);
      return list;
    };
    const [base, a, b] = [
      await ids(model.stream(prompt, { ...options, adapter: null })),
      await ids(model.stream(prompt, { ...options, adapter: "a" })),
      await ids(model.stream(prompt, { ...options, adapter: "b" })),
    ];
    expect(new Set([base, a, b].map(String)).size).toBe(3);

    model.adapters = { names: ["a"] };
    const running = model.stream(prompt, options);
    model.adapters = { names: ["b"] };
    const others = [model.stream(prompt, options), model.stream(prompt, { ...options, adapter: null })];
    expect(await Promise.all([running, ...others].map(ids))).toEqual([a, b, base]);
    expect(() => model.stream(prompt, { adapter: "c" })).toThrow(/no adapter 'c'.*|Loaded: a, b/);
  });

  it("needs a tokenizer only for text", async () => {
    await using model = await AutoModelForCausalLM.fromPretrained(llama);
    await expect(model.generate("hello")).rejects.toThrow(/needs a tokenizer/);
    await expect(model.generate([1, 2], { stop: "x" })).rejects.toThrow(/stop texts need a tokenizer/);
    expect(await model.generate([1, 2], { maxNewTokens: 3 })).toBe("");
  });
});
