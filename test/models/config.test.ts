import { existsSync, readdirSync, readFileSync } from "node:fs";
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

const models = goldenFolder("models");

describe("config.json", () => {
  it.for(readdirSync(models).filter((name) => existsSync(join(models, name, "model", "config.v4.json"))))(
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
      ropes: [{ type: "default", theta: 10000, rotaryDims: 16 }],
      quantization: undefined,
    });
  });

  it.each<[string, Record<string, unknown>, RegExp]>([
    [
      "an unknown family, listing the supported ones",
      { model_type: "mamba" },
      /model_type "mamba" is not supported.*gemma2, gemma3_text, granite, llama, mistral, olmo2, phi3, qwen2, qwen3, smollm3/,
    ],
    [
      "a model that reads images, with the way to its text model",
      { model_type: "gemma3" },
      /model_type "gemma3" is not supported/,
    ],
    ["no family", { model_type: undefined }, /is not supported/],
    ["another activation", { hidden_act: "gelu" }, /hidden_act: "gelu"/],
    ["soft caps", { final_logit_softcapping: 30 }, /final_logit_softcapping: 30/],
    ["interleaved rotary halves", { rope_interleaved: true }, /rope_interleaved: true/],
    [
      "other layer types",
      { model_type: "qwen2", num_key_value_heads: 2, layer_types: ["full_attention", "linear_attention"] },
      /layer_types: layers that are neither/,
    ],
    [
      "a window in llama's layers",
      { layer_types: ["full_attention", "sliding_attention"] },
      /layer_types: layers that are not full_attention/,
    ],
    [
      "layers with a window that is not given",
      { model_type: "qwen3", num_key_value_heads: 2, layer_types: ["full_attention", "sliding_attention"] },
      /sliding_window is missing/,
    ],
    [
      "layer types of another number of layers",
      { model_type: "qwen3", num_key_value_heads: 2, layer_types: ["full_attention"] },
      /layer_types must name 2 layers, not 1/,
    ],
    [
      "layer types that are no list",
      { model_type: "qwen3", num_key_value_heads: 2, layer_types: "full_attention" },
      /layer_types must be a list/,
    ],
    [
      "layers without RoPE that are no list of zeros and ones",
      { model_type: "smollm3", num_key_value_heads: 2, no_rope_layers: [1, 2] },
      /no_rope_layers must be a list of at least 2 times 0 or 1/,
    ],
    [
      "alternating layers in mistral",
      { model_type: "mistral", num_key_value_heads: 2, layer_types: ["full_attention", "sliding_attention"] },
      /layer_types/,
    ],
    [
      "8-bit weights",
      { quantization_config: { quant_method: "bitsandbytes", load_in_8bit: true } },
      /quantization_config.load_in_8bit: true/,
    ],
    ["other quantisation", { quantization_config: { quant_method: "gptq" } }, /quant_method: "gptq"/],
    [
      "several things at once",
      { hidden_act: "relu", rope_scaling: { type: "ntk", factor: 2 } },
      /hidden_act: "relu".*rope_scaling.rope_type: "ntk"/,
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

  it("reads windows", () => {
    const windows = (change: Record<string, unknown>) =>
      resolveConfig({ ...llama, num_key_value_heads: 2, ...change }).config.layers.map(({ window }) => window);
    const qwen2 = { model_type: "qwen2", use_sliding_window: true, sliding_window: 64 };
    expect(windows({ ...qwen2, max_window_layers: 2 })).toEqual([undefined, undefined]);
    expect(windows({ ...qwen2, max_window_layers: 1 })).toEqual([undefined, 64]);
    expect(windows({ ...qwen2, use_sliding_window: false, max_window_layers: 0 })).toEqual([undefined, undefined]);
    expect(windows({ ...qwen2, layer_types: ["sliding_attention", "full_attention"] })).toEqual([64, undefined]);
    // The absent key has a default, null says that there is none.
    expect(windows({ model_type: "mistral" })).toEqual([4096, 4096]);
    expect(windows({ model_type: "mistral", sliding_window: null })).toEqual([undefined, undefined]);
  });

  it("rounds Gemma's factor of embeddings where math is in bfloat16, as transformers does, and no other family's", () => {
    const sizes = { ...llama, hidden_size: 12, num_key_value_heads: 2 };
    expect(resolveConfig({ ...sizes, model_type: "gemma2" }).config.embeddingScale).toEqual({
      float32: Math.fround(Math.sqrt(12)),
      bfloat16: 3.46875,
    });
    const granite = { ...sizes, num_attention_heads: 2, model_type: "granite", embedding_multiplier: 3.4641 };
    expect(resolveConfig(granite).config.embeddingScale).toEqual({ float32: 3.4641, bfloat16: 3.4641 });
  });

  it("takes Gemma's hidden_activation, and says when hidden_act differs", () => {
    const gemma = { ...llama, model_type: "gemma2", num_key_value_heads: 2, hidden_activation: "gelu_pytorch_tanh" };
    const { config, unread } = resolveConfig({ ...gemma, hidden_act: "gelu" });
    expect([config.activation, unread]).toEqual(["gelu_tanh", [["hidden_act", "gelu"]]]);
    expect(resolveConfig({ ...gemma, hidden_act: "gelu_pytorch_tanh" }).unread).toEqual([]);
  });

  it("reads Gemma 3's two ropes in the keys of either version, and the kind of each layer", () => {
    const gemma = {
      ...llama,
      rope_theta: undefined,
      model_type: "gemma3_text",
      num_hidden_layers: 3,
      num_key_value_heads: 2,
      sliding_window: 8,
    };
    const read = (json: Record<string, unknown>) => {
      const { ropes, layers } = resolveConfig({ ...gemma, ...json }).config;
      return {
        ropes: ropes.map(({ type, theta, factor }) => [type, theta, factor]),
        layers: layers.map(({ window, rope }) => [window, rope]),
      };
    };
    const expected = {
      ropes: [
        ["linear", 5000, 8],
        ["default", 300, 1],
      ],
      layers: [
        [8, 1],
        [undefined, 0],
        [8, 1],
      ],
    };
    expect(
      read({
        rope_theta: 5000,
        rope_local_base_freq: 300,
        rope_scaling: { rope_type: "linear", factor: 8 },
        sliding_window_pattern: 2,
      }),
    ).toEqual(expected);
    const byType = {
      full_attention: { rope_type: "linear", factor: 8, rope_theta: 5000 },
      sliding_attention: { rope_type: "default", rope_theta: 300 },
    };
    const types = ["sliding_attention", "full_attention", "sliding_attention"];
    expect(read({ rope_parameters: byType, layer_types: types })).toEqual(expected);
    expect(read({}).ropes).toEqual([
      ["default", 1e6, 1],
      ["default", 10000, 1],
    ]);
    expect(() => read({ rope_parameters: { rope_theta: 5000 } })).toThrow(/rope_parameters: one rope for all layers/);
  });

  it("accepts pretraining_tp, and keeps the file's own keys to be saved", () => {
    const { config } = resolveConfig({ ...llama, pretraining_tp: 2 });
    expect(config.numLayers).toBe(2);
    expect(config.json).toEqual({ ...llama, pretraining_tp: 2 });
  });
});
