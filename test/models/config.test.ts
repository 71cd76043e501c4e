import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ConfigReader } from "../../src/models/config-reader.js";
import { resolveConfig } from "../../src/models/registry.js";
import { goldenFolder } from "../golden/folder.js";

const llama = {
  model_type: "llama",
  vocab_size: 320,
  hidden_size: 64,
  intermediate_size: 160,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  rope_theta: 10000,
};

describe("config.json", () => {
  const models = goldenFolder("models");
  it.for(["llama", "llama_rope3_tied", "llama_bias", "llama_sharded", "llama_bf16", "qwen2"])(
    "%s reads the same in the keys of transformers 4 and 5",
    (name, { skip }) => {
      const folder = join(models, name, "model");
      if (!existsSync(folder)) return skip(`${folder} is absent`);
      const read = (file: string) => {
        const { json, ...config } = resolveConfig(JSON.parse(readFileSync(join(folder, file), "utf8"))).config;
        return config;
      };
      expect(read("config.v4.json")).toEqual(read("config.json"));
    },
  );

  it("fills in transformers' defaults", () => {
    expect(resolveConfig(llama).config).toMatchObject({
      numKvHeads: 4,
      headDim: 16,
      rmsNormEps: 1e-6,
      tieWordEmbeddings: false,
      bias: { qkv: false, o: false, mlp: false },
      rope: { type: "default", theta: 10000, rotaryDims: 16 },
      quantization: undefined,
    });
  });

  it.each<[string, Record<string, unknown>, RegExp]>([
    [
      "an unknown family, listing the supported ones",
      { model_type: "mamba" },
      /model_type "mamba" is not supported.*llama, qwen2/,
    ],
    ["no family", { model_type: undefined }, /is not supported/],
    ["another activation", { hidden_act: "gelu" }, /hidden_act: "gelu"/],
    ["soft caps", { final_logit_softcapping: 30 }, /final_logit_softcapping: 30/],
    ["interleaved rotary halves", { rope_interleaved: true }, /rope_interleaved: true/],
    [
      "an active window",
      { model_type: "qwen2", use_sliding_window: true, sliding_window: 64, max_window_layers: 1 },
      /use_sliding_window/,
    ],
    ["other layer types", { layer_types: ["full_attention", "linear_attention"] }, /layer_types/],
    [
      "8-bit weights",
      { quantization_config: { quant_method: "bitsandbytes", load_in_8bit: true } },
      /quantization_config.load_in_8bit: true/,
    ],
    ["other quantisation", { quantization_config: { quant_method: "gptq" } }, /quant_method: "gptq"/],
    [
      "several things at once",
      { hidden_act: "relu", rope_scaling: { type: "dynamic", factor: 2 } },
      /hidden_act: "relu".*rope_scaling.rope_type: "dynamic"/,
    ],
    ["missing sizes, all of them", { hidden_size: undefined, vocab_size: null }, /hidden_size is missing.*vocab_size is missing/],
    ["wrong types", { num_hidden_layers: "two" }, /num_hidden_layers must be an integer from 1 to 4096, not "two"/],
    ["token ids that are none", { eos_token_id: [1, "2"] }, /eos_token_id must be a token id or a list of them/],
    ["a list for an object", { rope_scaling: [1] }, /rope_scaling must be an object/],
    ["long values, in short", { hidden_act: "x".repeat(500) }, /hidden_act: "x{99}… \(supported/],
    ["heads that do not share evenly", { num_key_value_heads: 3 }, /num_attention_heads \(4\) must be a multiple/],
  ])("refuses %s", (_, change, message) => {
    expect(() => resolveConfig({ ...llama, ...change })).toThrow(message);
  });

  it("a nested object that is read in two places counts what either reads", () => {
    const reader = new ConfigReader({ a: { b: 1, c: 2, d: 3 }, e: null, f: 0 });
    expect([reader.object("a").number("b"), reader.object("a").number("c")]).toEqual([1, 2]);
    expect(reader.unread()).toEqual([
      ["f", 0],
      ["a.d", 3],
    ]);
  });

  it("accepts a window that no layer uses, and pretraining_tp", () => {
    const unused = { use_sliding_window: true, sliding_window: 64, max_window_layers: 2 };
    expect(resolveConfig({ ...llama, model_type: "qwen2", ...unused }).config.bias.qkv).toBe(true);
    expect(resolveConfig({ ...llama, pretraining_tp: 2 }).config.numLayers).toBe(2);
  });
});
