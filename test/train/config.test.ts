import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import type { Json, JsonObject } from "../../src/io/json.js";
import { loadTrainConfig, parseTrainConfig, type TrainConfig, toFileKeys } from "../../src/train/config.js";
import { loraConfigOf } from "../../src/train/lora-keys.js";
import { configDifferences } from "../../src/train/resume-rule.js";
import { goldenFolder } from "../golden/folder.js";
import { errorOf, tempFolder } from "../io/files.js";

const BASE = "model_name_or_path: some/model\ndataset: one\noutput_dir: runs/a\n";
const parse = (more = "") => parseTrainConfig(BASE + more).config;
const problemsOf = (input: string | JsonObject, overrides: string[] = []): string[] => {
  try {
    parseTrainConfig(input, { overrides });
  } catch (error) {
    if (error instanceof LowrankError && error.code === "INVALID_CONFIG") return error.details.problems as string[];
    throw error;
  }
  return [];
};

interface GoldenConfig {
  name: string;
  yaml: string;
  commandLine: string[];
  values?: Record<string, Record<string, Json>>;
}
function goldenConfigs(name: string): { configs: GoldenConfig[]; defaults: Record<string, Record<string, Json>> } | undefined {
  const file = join(goldenFolder("data"), name, "case.json");
  if (existsSync(file)) return JSON.parse(readFileSync(file, "utf8"));
  console.warn(`not checked: ${file} is absent`);
  return undefined;
}

describe("parseTrainConfig", () => {
  it("gives the values that LLaMA-Factory's parser gives, or says what is not supported", () => {
    const golden = goldenConfigs("yaml_accepted");
    if (!golden) return;
    const refused: string[] = [];
    for (const { name, yaml, commandLine, values } of golden.configs) {
      const problems = problemsOf(yaml, commandLine);
      if (problems.length > 0) {
        expect(
          problems.filter((problem) => !/not supported yet|one adapter|^dataset is missing/.test(problem)),
          name,
        ).toEqual([]);
        refused.push(name);
        continue;
      }
      const found = toFileKeys(parseTrainConfig(yaml, { overrides: commandLine }).config);
      for (const group of Object.keys(golden.defaults)) {
        const expected = { ...golden.defaults[group], lora_alpha: undefined, optim: undefined, ...values![group] };
        for (const [key, value] of Object.entries(expected)) {
          // The base of the defaults named its own model, template and data.
          if (value === undefined || !(key in found) || (key === "template" && !("template" in values!.data!))) continue;
          expect([name, key, found[key]]).toEqual([name, key, value]);
        }
      }
    }
    const later = "dpo_example orpo kto_example reward interleave eval_dataset adapters freeze streaming predict";
    expect(refused).toEqual(later.split(" "));
  });

  it("refuses what LLaMA-Factory refuses, and what it should have refused", () => {
    const golden = goldenConfigs("yaml_refused");
    if (!golden) return;
    expect(
      golden.configs.filter(({ yaml, commandLine }) => problemsOf(yaml, commandLine).length === 0).map(({ name }) => name),
    ).toEqual([]);
  });

  it("fills in defaults", () => {
    expect(parse()).toMatchObject({
      stage: "sft",
      finetuningType: "lora",
      loraRank: 8,
      loraAlpha: 16,
      loraTarget: ["all"],
      cutoffLen: 2048,
      learningRate: 5e-5,
      template: null,
      warmupSteps: 0,
      packing: false,
      evalSteps: null,
    });
    expect(parse("lora_rank: 32\ndataset_vars: {name: Bo}\neval_strategy: steps\nval_size: 0.1\nlogging_steps: 7")).toMatchObject(
      {
        loraAlpha: 64,
        datasetVars: { name: "Bo" },
        doEval: true,
        evalSteps: 7,
      },
    );
    expect(parse("warmup_steps: 0.1").warmupSteps).toBe(0.1);
    expect(parse("disable_gradient_checkpointing: true\ngradient_checkpointing: true").gradientCheckpointing).toBe(false);
  });

  it("names the keys without effect in one note", () => {
    const { notes } = parseTrainConfig(
      `${BASE}preprocessing_num_workers: 16\nddp_timeout: 180\ndeepspeed: x.json\nuse_dora: false\ncompute_accuracy: null`,
    );
    expect(notes).toEqual(["accepted without effect: ddp_timeout, deepspeed, preprocessing_num_workers"]);
    expect(parseTrainConfig(BASE).notes).toEqual([]);
  });

  it("lists all mistakes at once, each with its remedy", () => {
    const yaml = `dataset: one\nlora_ranks: 8\nlearnin_rate: 1\nlora_rank: 0\nlr_scheduler_type: cosin\nuse_galore: true\nstage: dpo\nbf16: 'true'\noptim: ademamix_8bit`;
    const problems = problemsOf(yaml);
    expect(problems).toHaveLength(10);
    expect(problems).toContain("unknown key 'lora_ranks'; did you mean 'lora_rank'?");
    expect(problems).toContain("unknown key 'learnin_rate'; did you mean 'learning_rate'?");
    expect(problems.join("\n")).toMatch(/lora_rank should be an integer from 1 on, found 0/);
    expect(problems.join("\n")).toMatch(/lr_scheduler_type should be one of .*, found "cosin"; did you mean 'cosine'\?/);
    expect(problems.join("\n")).toMatch(/use_galore: true is known but not supported yet/);
    expect(problems.join("\n")).toMatch(/stage: dpo is known but not supported yet/);
    expect(problems.join("\n")).toMatch(/bf16 should be true or false, found "true" \(without quotes\)/);
    expect(problems.join("\n")).toMatch(/optim: ademamix_8bit is known but not supported yet/);
    expect(problems).toContain("model_name_or_path is missing");
    expect(problems).toContain("output_dir is missing");
  });

  it("keeps texts that YAML 1.1 takes for dates, and takes overrides with and without dashes", () => {
    expect(parseTrainConfig("model_name_or_path: m\ndataset: d\noutput_dir: 2026-11-01").config.outputDir).toBe("2026-11-01");
    expect(parseTrainConfig(BASE, { overrides: ["--seed=7", "lora_target=q_proj,v_proj", "template="] }).config).toMatchObject({
      seed: 7,
      loraTarget: ["q_proj", "v_proj"],
      template: null,
    });
    expect(problemsOf(BASE, ["seed"])).toEqual(["'seed' on the command line should be key=value"]);
  });

  it.each([
    ["model_name_or_path: 5", "model_name_or_path should be text, found 5"],
    ["per_device_train_batch_size: 16385", "per_device_train_batch_size should be an integer from 1 to 16384, found 16385"],
    ["cutoff_len: 1", "cutoff_len should be an integer from 2 on, found 1"],
    ["val_size: 1.5", "val_size should be a share below 1 or a whole count, found 1.5"],
    ["dataset_vars: [a]", 'dataset_vars should be names with texts, found ["a"]'],
    ["dataset_vars: {a: 5}", 'dataset_vars should be names with texts, found {"a":5}'],
    ["default_system: 5", "default_system should be text or null, found 5"],
    ["resume_from_checkpoint: 5", "resume_from_checkpoint should be true, false or a path or null, found 5"],
    ["max_steps: 0", "max_steps should be an integer from 1 on, or -1, found 0"],
    ["lr_scheduler_kwargs: 5", "lr_scheduler_kwargs should be names with values, found 5"],
    ["dataset: [a, 5]", 'dataset should be names, as a list or one text with commas, found ["a",5]'],
    ["warmup_ratio: 2", "warmup_ratio should be a number from 0 to 1, found 2"],
    ["warmup_ratio: x", 'warmup_ratio should be a number from 0 to 1, found "x"'],
    ["warmup_ratio: -0.1", "warmup_ratio should be a number from 0 to 1, found -0.1"],
    ["train_from_scratch: true", "train_from_scratch goes with finetuning_type: full only"],
    [
      "train_from_scratch: true\nfinetuning_type: full\nadapter_name_or_path: a",
      "train_from_scratch goes with finetuning_type: full only",
    ],
    ["pissa_iter: -2", "pissa_iter should be an integer from 0 on, or -1, found -2"],
    ["rank_pattern: {q_proj: 0}", 'rank_pattern should be patterns with integers above 0, found {"q_proj":0}'],
    ["bias: some", 'bias should be "none", "all" or "lora_only", found "some"'],
    ["pissa_init: true\ninit_lora_weights: olora", "pissa_init and init_lora_weights exclude each other"],
    ["init_lora_weights: orthogonal\nlora_rank: 3", "orthogonal initialisation needs an even r, found 3"],
    ["layers_pattern: layers", "layers_pattern needs layers_to_transform"],
    ["init_lora_weights: corda", 'init_lora_weights = "corda" is not supported yet'],
    ["lora_bias: true\npissa_init: true", 'lora_bias goes with init_lora_weights true or false, found "pissa_niter_16"'],
    [
      "trainable_token_indices: [1]\nmodules_to_save: embed_tokens",
      "embed_tokens is in modules_to_save and has trainable_token_indices: one of the two",
    ],
    [
      "pissa_init: true\nquantization_bit: 4",
      "pissa_init: needs the base's weights before they are quantised, without quantization_bit",
    ],
    [
      "init_lora_weights: gaussian\nadapter_name_or_path: a",
      "init_lora_weights: for a new adapter, and adapter_name_or_path goes on with one",
    ],
    ["loraplus_lr_ratio: 16\nlearning_rate: 0", "loraplus_lr_ratio needs a learning_rate above 0"],
    [
      "finetuning_type: full\nuse_dora: true\nadditional_target: norm\nloraplus_lr_ratio: 2\nadapter_name_or_path: a",
      "adapter_name_or_path, use_dora, additional_target, loraplus_lr_ratio: with finetuning_type: lora only",
    ],
  ])("refuses %j", (yaml, problem) => {
    expect(
      problemsOf(
        BASE.replace(/^(model_name_or_path|dataset):.*\n/gm, (line, key) => (yaml.startsWith(`${key}:`) ? "" : line)) + yaml,
      ),
    ).toContain(problem);
  });

  it("takes an object as it takes the file, other names of keys, and nothing for the default", () => {
    const object = { model_name_or_path: "m", dataset: "d", output_dir: "o", warmup_ratio: 0.1 };
    expect(parseTrainConfig(object).config.warmupSteps).toBe(0.1);
    expect(parse("cutoff_length: 64").cutoffLen).toBe(64);
    expect(parse("cutoff_length: 64\ncutoff_len: 32").cutoffLen).toBe(32);
    expect(parse("seed: null\ntemplate: null")).toMatchObject({ seed: 42, template: null });
    // An unquoted no is false in YAML 1.1.
    expect(parse("save_strategy: no").saveStrategy).toBe("no");
    expect(parse("max_steps: 5\nresume_from_checkpoint: a\ndefault_system: ''\nlr_scheduler_kwargs: {}")).toMatchObject({
      maxSteps: 5,
      resumeFromCheckpoint: "a",
      defaultSystem: "",
    });
  });

  it("refuses keys that would change every object, texts without end and nesting without end", () => {
    expect(problemsOf(BASE, ["__proto__=1"])).toEqual(["unknown key '__proto__'"]);
    expect(problemsOf(`a: ${"x".repeat(40_000)}`)).toEqual(["longer than 32768 characters"]);
    expect(problemsOf(`a: ${"[".repeat(129)}${"]".repeat(129)}`)).toEqual([expect.stringContaining("nested more than 128 deep")]);
    expect(problemsOf("- a")).toEqual(["expected keys with values (key: value)"]);
    const many = Array.from({ length: 60 }, (_, i) => `seed${i}: 1`).join("\n");
    const problems = problemsOf(BASE + many);
    expect(problems).toHaveLength(60);
    expect(problems.filter((problem) => problem.includes("did you mean"))).toHaveLength(50);
  });

  it("checks the options of the schedule", () => {
    expect(problemsOf(`${BASE}lr_scheduler_type: cosine_with_min_lr`)).toEqual([
      "lr_scheduler_kwargs: cosine_with_min_lr needs either min_lr or min_lr_rate",
    ]);
    expect(problemsOf(`${BASE}lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_lr: 1e-6}`)).toEqual([]);
  });

  it("reads files and names them in errors", async () => {
    const path = join(tempFolder(), "c.yaml");
    expect((await errorOf(loadTrainConfig(path))).code).toBe("NOT_FOUND");
    writeFileSync(path, "a: [1");
    const error = await errorOf(loadTrainConfig(path));
    expect(error.code).toBe("INVALID_CONFIG");
    expect(error.message).toContain(path);
    expect((await errorOf(loadTrainConfig(tempFolder()))).code).toBe("INVALID_FILE");
  });
});

describe("loraConfigOf", () => {
  it("is the LoraConfig of PEFT's fields that the keys fill", () => {
    const yaml = `lora_rank: 6
lora_alpha: 3
lora_dropout: 0.1
lora_target: q_proj, embed_tokens
additional_target: norm, lm_head
use_rslora: true
use_dora: true
init_lora_weights: gaussian
exclude_modules: .*layers.1.*
rank_pattern: {q_proj: 2}
alpha_pattern: {"layers.0.self_attn.q_proj": 5}
layers_to_transform: [0]
layers_pattern: layers
bias: all
ensure_weight_tying: true
`;
    expect(loraConfigOf(parse(yaml)).toJSON()).toMatchObject({
      task_type: "CAUSAL_LM",
      r: 6,
      lora_alpha: 3,
      lora_dropout: 0.1,
      target_modules: ["q_proj", "embed_tokens"],
      modules_to_save: ["norm", "lm_head"],
      use_rslora: true,
      use_dora: true,
      init_lora_weights: "gaussian",
      exclude_modules: ".*layers.1.*",
      rank_pattern: { q_proj: 2 },
      alpha_pattern: { "layers.0.self_attn.q_proj": 5 },
      layers_to_transform: [0],
      layers_pattern: "layers",
      bias: "all",
      ensure_weight_tying: true,
    });
    expect(loraConfigOf(parse("lora_bias: true\ntrainable_token_indices: {lm_head: [3, 1]}")).toJSON()).toMatchObject({
      target_modules: "all-linear",
      lora_bias: true,
      trainable_token_indices: { lm_head: [3, 1] },
    });
    const initOf = (more: string) => loraConfigOf(parse(more)).initLoraWeights;
    expect([initOf(""), initOf("pissa_init: true"), initOf("pissa_init: true\npissa_iter: -1")]).toEqual([
      true,
      "pissa_niter_16",
      "pissa",
    ]);
    expect(initOf("init_lora_weights: false")).toBe(false);
  });
});

describe("configDifferences", () => {
  const differences = (old: TrainConfig, current: TrainConfig) => configDifferences(toFileKeys(old), toFileKeys(current));

  it("lists what a resumed run must not change", () => {
    const free =
      "output_dir: b\nresume_from_checkpoint: true\nlogging_steps: 1\nsave_steps: 2\nsave_total_limit: 3\nreport_to: none\noverwrite_output_dir: true";
    expect(differences(parse(), parseTrainConfig(`model_name_or_path: some/model\ndataset: one\n${free}`).config)).toEqual([]);
    expect(differences(parse(), parse("learning_rate: 1e-3\nseed: 1\nlora_target: [a, b]"))).toEqual([
      { key: "lora_target", old: ["all"], new: ["a", "b"] },
      { key: "learning_rate", old: 5e-5, new: 1e-3 },
      { key: "seed", old: 42, new: 1 },
    ]);
  });

  it("takes a key that the older configuration lacks for its default", () => {
    const whole = toFileKeys(parse("neftune_noise_alpha: 5\nadam_beta2: 0.99"));
    const { neftune_noise_alpha: _, adam_beta2: __, lora_rank: ___, ...older } = whole;
    expect(configDifferences(older, whole)).toEqual([
      { key: "adam_beta2", old: 0.999, new: 0.99 },
      { key: "neftune_noise_alpha", old: null, new: 5 },
    ]);
    expect(configDifferences({ learningRate: 1 }, { learningRate: 1, adamBeta2: 0.999, packing: true, mine: 1 })).toEqual([
      { key: "packing", old: false, new: true },
      { key: "mine", old: null, new: 1 },
    ]);
    expect(configDifferences({ adam_beta2: 0.99, gone: 1 }, {})).toEqual([
      { key: "adam_beta2", old: 0.99, new: 0.999 },
      { key: "gone", old: 1, new: null },
    ]);
  });
});
