import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { getDevice } from "../../src/tensor/device.js";
import { scope } from "../../src/tensor/scope.js";
import { goldenFolder } from "../golden/folder.js";
import { largestError, readTensors } from "../golden/tensors.js";

const models = goldenFolder("models");
const peft = goldenFolder("peft");
const json = (folder: string, name = "config.json") => JSON.parse(readFileSync(join(folder, name), "utf8"));
/** Raw bytes by name, so that equality is exact. */
const contents = (folder: string) => {
  const bytes = new Map<string, string>();
  for (const [name, { dtype, shape, data }] of readTensors(join(folder, "model.safetensors"))) {
    bytes.set(name, `${dtype} [${shape}] ${Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")}`);
  }
  return bytes;
};

describe("saving", () => {
  let out: string;
  let before: { live: number; tensors: number };
  const memory = () => {
    const { live, tensors } = getDevice().memory;
    return { live, tensors };
  };
  beforeAll(() => {
    out = mkdtempSync(join(tmpdir(), "lowrank-save-"));
    before = memory();
  });
  afterAll(() => {
    rmSync(out, { recursive: true, force: true });
    expect(memory()).toEqual(before);
  });

  const ids = [1, 5, 9, 60, 33, 2];
  const logits = async (model: CausalLM) => {
    using tensor = scope(() => model.logits(model.hiddenStates(packSequences([ids], model.device))));
    return await tensor.readFloat32();
  };
  const load = (folder: string, options: Parameters<typeof AutoModelForCausalLM.fromPretrained>[1] = {}) =>
    AutoModelForCausalLM.fromPretrained(folder, { dtype: "float32", ...options });

  it("writes as floats what transformers takes as nothing else", async ({ skip }) => {
    const folder = join(models, "gemma2", "model");
    if (!existsSync(folder)) return skip(`${folder} is absent`);
    const copy = join(out, "floats");
    cpSync(folder, copy, { recursive: true });
    writeFileSync(join(copy, "generation_config.json"), '{"temperature": 2.0, "top_k": 3, "repetition_penalty": 1.0}');
    await using model = await load(copy);
    await model.savePretrained(join(out, "floats-saved"));
    const text = (name: string) => readFileSync(join(out, "floats-saved", name), "utf8");
    expect(readFileSync(join(folder, "config.json"), "utf8")).toContain('"attn_logit_softcapping": 2.0');
    expect(text("config.json")).toContain('"attn_logit_softcapping": 2.0,');
    expect(text("config.json")).toContain('"final_logit_softcapping": 1.5,');
    expect(text("generation_config.json")).toBe('{\n  "temperature": 2.0,\n  "top_k": 3,\n  "repetition_penalty": 1.0\n}\n');
  });

  it.for(["llama", "llama_bf16", "llama_bias", "llama_rope3_tied", "qwen2", "qwen3", "mistral", "gemma2", "phi3"])(
    "gives back the very tensors that were loaded: %s",
    async (name, { skip }) => {
      const folder = join(models, name, "model");
      if (!existsSync(folder)) return skip(`${folder} is absent`);
      const saved = join(out, name);
      await using model = await load(folder);
      await model.savePretrained(saved);
      expect(contents(saved)).toEqual(contents(folder));
      expect(json(saved)).toEqual(json(folder));
      expect(json(saved, "generation_config.json")).toEqual(json(folder, "generation_config.json"));
    },
  );

  it.skipIf(!existsSync(models))("splits into shards that load to the same logits", async () => {
    const saved = join(out, "shards");
    await using model = await load(join(models, "llama", "model"));
    await model.savePretrained(saved, { maxShardBytes: 150_000 });
    const index = json(saved, "model.safetensors.index.json");
    const original = contents(join(models, "llama", "model"));
    expect(new Set(Object.keys(index.weight_map))).toEqual(new Set(original.keys()));
    expect(new Set(Object.values(index.weight_map)).size).toBeGreaterThan(2);
    await using again = await load(saved);
    expect(await logits(again)).toEqual(await logits(model));
  });

  const cases = [
    { name: "qlora-nf4", options: { bnb4bitUseDoubleQuant: false } },
    { name: "qlora-nf4-dq", options: {} },
    { name: "qlora-fp4", options: { bnb4bitQuantType: "fp4", bnb4bitUseDoubleQuant: false } },
    { name: "qlora-fp4-dq", options: { bnb4bitQuantType: "fp4" } },
  ] as const;

  it.for(cases)("writes 4-bit weights as bitsandbytes does, and reads them back exactly: $name", async ({ name }, { skip }) => {
    const folder = join(peft, name, "model");
    if (!existsSync(folder)) return skip(`${folder} is absent`);
    const saved = join(out, name);
    await using model = await load(folder);
    await model.savePretrained(saved);
    expect(contents(saved)).toEqual(contents(folder));
    expect(json(saved).quantization_config).toMatchObject(json(folder).quantization_config);
    await using again = await load(saved);
    expect(await logits(again)).toEqual(await logits(model));
  });

  it.for(cases)("quantises while loading to the codes of bitsandbytes: $name", async ({ name, options }, { skip }) => {
    const folder = join(peft, "bases", "qlora");
    if (!existsSync(folder)) return skip(`${folder} is absent`);
    const saved = join(out, `${name}-quantised`);
    await using model = await load(folder, { loadIn4bit: true, ...options });
    await model.savePretrained(saved);
    const [got, want] = [
      readTensors(join(saved, "model.safetensors")),
      readTensors(join(peft, name, "model", "model.safetensors")),
    ];
    expect(new Set(got.keys())).toEqual(new Set(want.keys()));
    for (const [tensor, { data, dtype }] of want) {
      if (tensor.includes("quant_state")) continue;
      const codes = got.get(tensor)!.data;
      // The library's CPU code rounds nested statistics on a coarser grid: a neighbour may be chosen.
      if (tensor.endsWith(".absmax") && dtype === "U8") expect(largestError(codes, data)).toBeLessThanOrEqual(1);
      else if (dtype === "U8") expect(codes, tensor).toEqual(data);
      else expect(largestError(codes, data)).toBeLessThan(1e-6);
    }
  });

  it.skipIf(!existsSync(peft))("dequantises when a dtype is asked for", async () => {
    const saved = join(out, "dequantised");
    await using model = await load(join(peft, "qlora-nf4-dq", "model"));
    await model.savePretrained(saved, { dtype: "float32" });
    const expected = readTensors(join(peft, "qlora-nf4-dq", "expected.safetensors")).get(
      "dequant.model.layers.0.self_attn.k_proj.weight",
    )!.data;
    const got = readTensors(join(saved, "model.safetensors")).get("model.layers.0.self_attn.k_proj.weight")!.data;
    expect(largestError(got, expected)).toBeLessThanOrEqual(1e-6);
    expect(json(saved)).not.toHaveProperty("quantization_config");
    await using again = await load(saved);
    expect(largestError(await logits(again), await logits(model))).toBeLessThan(1e-4);
  });

  it.skipIf(!existsSync(models))("leaves the folder as it was when it is aborted", async () => {
    const saved = join(out, "llama-aborted");
    await using model = await load(join(models, "llama", "model"));
    const abort = new AbortController();
    const save = model.savePretrained(saved, {
      signal: abort.signal,
      onProgress: ({ done }) => done > 0 && abort.abort(new Error("enough")),
    });
    await expect(save).rejects.toThrow("enough");
    expect(existsSync(saved)).toBe(false);
  });
});
