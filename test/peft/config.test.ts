import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { LoraConfig, type LoraConfigOptions } from "../../src/peft/config.js";
import { pythonRegex } from "../../src/peft/python-regex.js";
import { goldenFolder } from "../golden/folder.js";

const errorOf = (body: () => unknown): LowrankError => {
  try {
    body();
  } catch (error) {
    if (error instanceof LowrankError) return error;
    throw error;
  }
  throw new Error("expected a LowrankError");
};

describe("LoraConfig", () => {
  it("has PEFT's defaults", () => {
    expect(LoraConfig.fromJSON({ peft_type: "LORA", target_modules: ["q_proj"] })).toMatchObject({
      r: 8,
      loraAlpha: 8,
      loraDropout: 0,
      bias: "none",
      targetModules: ["q_proj"],
      initLoraWeights: true,
      rankPattern: {},
      useRslora: false,
    });
  });

  it("lists all mistakes at once", () => {
    const options = {
      r: 0,
      loraDropout: 1.5,
      bias: "some",
      initLoraWeights: "xavier",
      rankPattern: { q: 0 },
      rank: 3,
      loraAlpha: "16",
    };
    const error = errorOf(() => new LoraConfig(options as unknown as LoraConfigOptions));
    expect(error.code).toBe("INVALID_CONFIG");
    expect(error.details.problems).toHaveLength(7);
    expect(error.message).toMatch(/r should be an integer above 0, found 0/);
    const both = errorOf(() => new LoraConfig({ r: 3, initLoraWeights: "orthogonal", layersPattern: "h", targetModules: "(" }));
    expect(both.details.problems).toHaveLength(3);
  });

  it("scales by alpha over r or its root, with the first pattern that matches", () => {
    const patterns = {
      rankPattern: { "layers.1.*": 2, q_proj: 4 },
      alphaPattern: { "model.layers.0.self_attn.v_proj": 1, _proj: 3 },
    };
    const config = new LoraConfig({ r: 16, loraAlpha: 8, ...patterns });
    expect(config.rankOf("model.layers.1.self_attn.q_proj")).toBe(2);
    expect(config.rankOf("model.layers.0.self_attn.q_proj")).toBe(4);
    expect(config.rankOf("model.layers.0.self_attn.qq_proj")).toBe(16);
    expect(config.alphaOf("model.layers.0.self_attn.v_proj")).toBe(1);
    expect(config.alphaOf("model.layers.0.self_attn.k_proj")).toBe(8);
    expect(config.scalingOf("model.layers.0.self_attn.q_proj")).toBe(2);
    expect(config.with({ useRslora: true }).scalingOf("x")).toBe(2);
  });

  it("writes PEFT 0.6's keys always and newer ones only when they say something", () => {
    const json = new LoraConfig({ targetModules: ["q_proj"], useRslora: true }, { future_key: [1] }).toJSON();
    const always =
      "alpha_pattern auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights layers_pattern layers_to_transform";
    const more = "lora_alpha lora_dropout modules_to_save peft_type r rank_pattern revision target_modules task_type";
    expect(Object.keys(json)).toEqual([...`${always} ${more}`.split(" "), "use_rslora", "future_key"].sort());
  });

  it("loses no key of any configuration that PEFT wrote", () => {
    const root = goldenFolder("peft");
    if (!existsSync(root)) return console.warn("not checked: golden peft is absent");
    const files = readdirSync(root, { recursive: true, encoding: "utf8" }).filter((name) =>
      /^adapter.*adapter_config\.json$/.test(name),
    );
    expect(files.length).toBeGreaterThan(20);
    for (const file of files) {
      const written = JSON.parse(readFileSync(join(root, file), "utf8"));
      if (written.peft_type !== "LORA") {
        expect(errorOf(() => LoraConfig.fromJSON(written)).details.reason).toBe("other-peft-method");
        continue;
      }
      const config = LoraConfig.fromJSON(written);
      const json = config.toJSON();
      for (const [key, value] of Object.entries(json)) if (key in written) expect(value, `${file} ${key}`).toEqual(written[key]);
      expect(LoraConfig.fromJSON(json), file).toEqual(config);
    }
  });

  it("keeps unknown keys and refuses to run with them or with what is not computed, all at once", () => {
    const json = {
      peft_type: "LORA",
      use_future: true,
      future_null: null,
      use_dora: true,
      init_lora_weights: "corda",
      megatron_config: { a: 1 },
      layer_replication: [[0, 2]],
    };
    const config = LoraConfig.fromJSON(json);
    expect(config.toJSON()).toMatchObject(json);
    const error = errorOf(() => config.assertRunnable(false));
    expect(error.code).toBe("UNSUPPORTED");
    expect(error.details.problems).toHaveLength(4);
    LoraConfig.fromJSON({ peft_type: "LORA", future_null: null, init_lora_weights: "gaussian" }).assertRunnable(true);
    for (const initLoraWeights of ["orthogonal", "pissa", "pissa_niter_4", "olora"])
      new LoraConfig({ initLoraWeights }).assertRunnable(true);
    // Made with such a start elsewhere, an adapter is like any other; here it cannot be made.
    for (const begun of [{ initLoraWeights: "loftq", loftqConfig: { loftq_bits: 4 } }, { initLoraWeights: "eva" }]) {
      const config = new LoraConfig(begun);
      config.assertRunnable(false);
      expect(errorOf(() => config.assertRunnable(true)).code).toBe("UNSUPPORTED");
    }
  });

  it("takes null for an empty pattern, as old files have it", () => {
    const config = LoraConfig.fromJSON({ peft_type: "LORA", rank_pattern: null, alpha_pattern: null, loftq_config: null });
    expect([config.rankPattern, config.alphaPattern]).toEqual([{}, {}]);
  });

  it("names no end of unknown keys, and forgets patterns rather than keep all there ever were", () => {
    const many = (n: number, make: (i: number) => [string, unknown]) =>
      Object.fromEntries(Array.from({ length: n }, (_, i) => make(i)));
    const config = LoraConfig.fromJSON({ peft_type: "LORA", ...many(300, (i) => [`k${i}`, 1]) } as never);
    expect(errorOf(() => config.assertRunnable(false)).details.problems).toHaveLength(101);
    const patterns = new LoraConfig({
      r: 16,
      rankPattern: many(1200, (i) => [`m${i}_proj`, (i % 8) + 1]) as Record<string, number>,
    });
    for (const i of [0, 1199, 0]) expect(patterns.rankOf(`model.m${i}_proj`)).toBe((i % 8) + 1);
  });

  it("names a missing, an unknown and another peft_type", () => {
    expect(errorOf(() => LoraConfig.fromJSON({})).message).toMatch(/no peft_type/);
    expect(errorOf(() => LoraConfig.fromJSON({ peft_type: "SUPERLORA" })).message).toMatch(/unknown peft_type "SUPERLORA"/);
    expect(errorOf(() => LoraConfig.fromJSON({ peft_type: "IA3" })).details.reason).toBe("other-peft-method");
  });
});

describe("pythonRegex", () => {
  // Third column: what Python 3.11's re.fullmatch says.
  it.each<[string, string, boolean]>([
    ["a.c", "a\nc", false],
    ["(?s)a.c", "a\nc", true],
    ["a.c", "a\u2028c", true],
    ["a{,2}", "aa", true],
    ["a{,2}", "aaa", false],
    ["a{x}", "a{x}", true],
    ["a{}", "a{}", true],
    ["[]a]+", "]a", true],
    ["[^]a]", "b", true],
    ["[[a]", "[", true],
    ["[a\\-z]", "-", true],
    ["a\\-b\\/c\\_", "a-b/c_", true],
    ["a/b]}", "a/b]}", true],
    ["(?P<x>a)(?P=x)", "aa", true],
    ["(a)\\1", "aa", true],
    ["(?x) a # c\n b", "ab", true],
    ["(?x)a\\ b[ ]", "a b ", true],
    ["(?im)^A$", "a", true],
    ["\\Aa\\Z", "a", true],
    ["a|ab", "ab", true],
    ["(?#note)a", "a", true],
    ["\\x41\\u0042\\U00000043", "ABC", true],
    ["a$", "a\n", false],
    ["\\d+\\w\\s", "12_ ", true],
  ])("%s on %j", (pattern, text, expected) => {
    expect(pythonRegex(pattern).fullMatch(text)).toBe(expected);
  });

  it("refuses what is too large to compile, which shows at the first use only", () => {
    expect(errorOf(() => pythonRegex("a".repeat(40_000)))).toMatchObject({ code: "INVALID_CONFIG" });
  });

  it("matches at the start only, with $ before a last newline", () => {
    expect(pythonRegex("b").match("ab")).toBeNull();
    expect(pythonRegex("(a)b").match("abc")?.[1]).toBe("a");
    expect(pythonRegex("a$").match("a\n")).not.toBeNull();
    expect(pythonRegex("a$").match("a\n\n")).toBeNull();
  });

  it.each(["(", "a)", "*a", "a**", "[a", "\\", "\\y", "(?P<1>a)", "\\q", "[\\A]", "[\\Z]", "a{2,1}"])(
    "refuses %s as Python does",
    (pattern) => {
      expect(errorOf(() => pythonRegex(pattern)).code).toBe("INVALID_CONFIG");
    },
  );

  it.each(["(?>a)", "(?i:a)", "a(?i)", "(a)?(?(1)b|c)", "a*+", "\\012", "(?L)a"])(
    "refuses %s, which JavaScript cannot express",
    (pattern) => {
      expect(errorOf(() => pythonRegex(pattern)).code).toBe("INVALID_CONFIG");
    },
  );

  it("is checked wherever a configuration has one, all at once", () => {
    const error = errorOf(
      () =>
        new LoraConfig({
          targetModules: ["q_proj"],
          excludeModules: "a(",
          modulesToSave: ["b("],
          layersToTransform: [0],
          layersPattern: ["c("],
          rankPattern: { "d(": 4 },
        }),
    );
    expect(error.code).toBe("INVALID_CONFIG");
    for (const pattern of ["a(", "b(", "c(", "d("]) expect(error.message).toContain(pattern);
    expect(error.details).toMatchObject({ problems: { length: 4 } });
  });
});
