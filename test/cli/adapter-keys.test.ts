/** Keys that say what adapter a run trains, through the whole command: train, resume, what is saved, generate. */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { packSequences } from "../../src/models/batch.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { scope } from "../../src/tensor/scope.js";
import { readTensors } from "../golden/tensors.js";
import { tempFolder } from "../io/files.js";
import { buildOnce, type Job, jsonLines, lowrank, makeJob } from "./run.js";

beforeAll(buildOnce, 120_000);

const TIME = 60_000;
const q = "base_model.model.model.layers.0.self_attn.q_proj";
const embedding = "base_model.model.model.embed_tokens";

interface Saved {
  config: Record<string, unknown>;
  tensors: ReadonlyMap<string, { shape: readonly number[] }>;
}
const savedIn = (folder: string): Saved => ({
  config: JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")),
  tensors: readTensors(join(folder, "adapter_model.safetensors")),
});

/** Logits of the base of a job under the adapter of a folder. */
async function logitsOf(job: Job, folder: string): Promise<Float32Array> {
  await using peft = await PeftModel.fromPretrained(
    await AutoModelForCausalLM.fromPretrained(job.model, { dtype: "float32" }),
    folder,
  );
  using out = scope(() => peft.base.logits(peft.base.hiddenStates(packSequences([[5, 6, 7, 8]], peft.base.device))));
  return await out.readFloat32();
}
const distance = (a: Float32Array, b: Float32Array) =>
  Math.max(...a.map((x, i) => Math.abs(x - b[i]!))) / Math.max(...a.map(Math.abs));

/** Trains four steps, and the last two again from checkpoint-2: the same bytes. Then an answer with what was saved. */
async function wholeWay(yaml: string, ...overrides: string[]): Promise<{ job: Job; saved: Saved }> {
  const job = await makeJob(tempFolder(), `save_steps: 2\nlora_dropout: 0.1\n${yaml}`);
  const train = await lowrank(["train", job.config, ...overrides, "--json"]);
  expect(train.stderr).not.toMatch(/error/);
  expect(train.code).toBe(0);
  expect(/Taking the start from the base done/.test(train.stderr)).toBe(/pissa_init|olora/.test(yaml));
  const file = join(job.out, "adapter_model.safetensors");
  const expected = readFileSync(file);
  const checkpoint = join(job.out, "checkpoint-4");
  expect(Buffer.compare(readFileSync(join(checkpoint, "adapter_model.safetensors")), expected)).toBe(0);
  rmSync(checkpoint, { recursive: true });
  const resumed = await lowrank(["train", job.config, ...overrides, "--resume", "--json"]);
  expect(resumed.code).toBe(0);
  expect(jsonLines(resumed.stdout).find(({ type }) => type === "start")).toMatchObject({ step: 2 });
  expect(Buffer.compare(readFileSync(file), expected)).toBe(0);
  const flags = ["--prompt", "Count to 3", "--max-new-tokens", "4", "--temperature", "0", "--json"];
  const answer = await lowrank(["generate", "--adapter", job.out, ...flags]);
  expect(answer).toMatchObject({ code: 0 });
  expect(jsonLines(answer.stdout).at(-1)).toMatchObject({ tokens: 4 });
  return { job, saved: savedIn(job.out) };
}

describe("lowrank train", () => {
  it(
    "use_dora: lengths beside the pairs",
    async () => {
      const { saved } = await wholeWay("use_dora: true");
      expect(saved.config).toMatchObject({ use_dora: true, r: 4, lora_alpha: 8 });
      expect(saved.tensors.get(`${q}.lora_magnitude_vector`)?.shape).toEqual([64]);
    },
    TIME,
  );

  it(
    "pissa_init with pissa_convert is saved as plain LoRA of twice the rank that does what the unconverted one does",
    async () => {
      const plain = await wholeWay("pissa_init: true\npissa_iter: -1\npissa_convert: true");
      expect(plain.saved.config).toMatchObject({ r: 8, lora_alpha: 16, init_lora_weights: true });
      expect(plain.saved.tensors.get(`${q}.lora_A.weight`)?.shape).toEqual([8, 64]);
      const raw = await wholeWay("pissa_init: true\npissa_iter: -1");
      expect(raw.saved.config).toMatchObject({ r: 4, lora_alpha: 8, init_lora_weights: "pissa" });
      const [converted, unconverted] = [await logitsOf(plain.job, plain.job.out), await logitsOf(raw.job, raw.job.out)];
      expect(distance(unconverted, converted)).toBeLessThan(1e-5);
      expect(distance(converted, await logitsOf(plain.job, join(plain.job.out, "checkpoint-2")))).toBeGreaterThan(1e-3);
    },
    2 * TIME,
  );

  it(
    "pissa_init alone is the fast start, with rsLoRA too; olora likewise",
    async () => {
      const { saved } = await wholeWay("pissa_init: true\nuse_rslora: true");
      expect(saved.config).toMatchObject({ init_lora_weights: "pissa_niter_16", use_rslora: true });
      const olora = await wholeWay("init_lora_weights: olora\npissa_convert: true");
      expect(olora.saved.config).toMatchObject({ r: 8, init_lora_weights: true });
    },
    2 * TIME,
  );

  it(
    "additional_target: modules trained and saved whole",
    async () => {
      const { saved } = await wholeWay("additional_target: norm,lm_head", "lora_target=q_proj");
      expect(saved.config).toMatchObject({ modules_to_save: ["norm", "lm_head"], target_modules: ["q_proj"] });
      expect(saved.tensors.get("base_model.model.lm_head.weight")?.shape).toEqual([320, 64]);
      expect(saved.tensors.get("base_model.model.model.norm.weight")?.shape).toEqual([64]);
    },
    TIME,
  );

  it(
    "loraplus_lr_ratio, with LoRA on an embedding",
    async () => {
      const target = "lora_target=q_proj,embed_tokens";
      const keys = "optim: adamw_8bit";
      const { job, saved } = await wholeWay(`${keys}\nloraplus_lr_ratio: 8\nloraplus_lr_embedding: 1e-5`, target);
      expect(saved.tensors.has(`${embedding}.lora_embedding_A`)).toBe(true);
      const other = await makeJob(tempFolder(), `lora_dropout: 0.1\n${keys}`);
      expect(await lowrank(["train", other.config, target])).toMatchObject({ code: 0 });
      expect(distance(await logitsOf(job, job.out), await logitsOf(other, other.out))).toBeGreaterThan(1e-3);
    },
    2 * TIME,
  );

  it(
    "PEFT's own fields: patterns, layers, exclusion, init, bias, tokens",
    async () => {
      const { saved } = await wholeWay(
        `exclude_modules: [k_proj]
layers_to_transform: [0]
rank_pattern: {q_proj: 2}
alpha_pattern: {v_proj: 3}
init_lora_weights: orthogonal
trainable_token_indices: [7, 5]
ensure_weight_tying: false`,
        "lora_target=q_proj,k_proj,v_proj",
      );
      expect(saved.config).toMatchObject({
        exclude_modules: ["k_proj"],
        layers_to_transform: [0],
        rank_pattern: { q_proj: 2 },
        alpha_pattern: { v_proj: 3 },
        init_lora_weights: "orthogonal",
        trainable_token_indices: [7, 5],
      });
      expect([...saved.tensors.keys()].sort()).toEqual([
        `${embedding}.token_adapter.trainable_tokens_delta`,
        `${q}.lora_A.weight`,
        `${q}.lora_B.weight`,
        `${q.replace("q_proj", "v_proj")}.lora_A.weight`,
        `${q.replace("q_proj", "v_proj")}.lora_B.weight`,
      ]);
      expect(saved.tensors.get(`${q}.lora_A.weight`)?.shape).toEqual([2, 64]);
      const biased = await wholeWay("lora_bias: true\ninit_lora_weights: false");
      expect(biased.saved.tensors.get(`${q}.lora_B.bias`)?.shape).toEqual([64]);
    },
    2 * TIME,
  );

  it("names what does not fit before weights are loaded: --dry-run too", async () => {
    const job = await makeJob(tempFolder(), "additional_target: lm_haed\n");
    rmSync(join(job.model, "model.safetensors"));
    for (const flags of [[], ["--dry-run"]]) {
      const { code, stderr } = await lowrank(["train", job.config, ...flags]);
      expect(code).toBeGreaterThan(0);
      expect(stderr).toContain("modules_to_save: 'lm_haed' matches no module; did you mean 'lm_head'?");
    }
  });

  it(
    "an adapter that goes on is what the keys ask for, or the run is refused",
    async () => {
      const job = await makeJob(tempFolder(), "use_dora: true\nadditional_target: norm\n");
      expect(await lowrank(["train", job.config])).toMatchObject({ code: 0 });
      const on = [`adapter_name_or_path=${job.out}`, `output_dir=${job.out}-2`];
      const { code, stderr } = await lowrank(["train", job.config, ...on, "use_rslora=true", "additional_target=lm_head"]);
      expect(code).toBe(2);
      expect(stderr).toContain("use_rslora: true, but the adapter has false");
      expect(stderr).toContain('additional_target: ["lm_head"], but the adapter has ["norm"]');
      expect(stderr).not.toContain("use_dora");
      expect(await lowrank(["train", job.config, ...on])).toMatchObject({ code: 0 });
      expect(savedIn(`${job.out}-2`).config).toMatchObject({ use_dora: true, modules_to_save: ["norm"] });
    },
    TIME,
  );
});
