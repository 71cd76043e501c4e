import { existsSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { packSequences } from "../../src/models/batch.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { PeftModel } from "../../src/peft/peft-model.js";
import { scope } from "../../src/tensor/scope.js";
import { buildOnce, jsonLines, lowrank } from "../cli/run.js";
import { tempFolder } from "../io/files.js";

const shared = resolve(process.env.LOWRANK_SHARED ?? join(import.meta.dirname, "../../../shared"));
const MODEL = join(shared, "models/smollm2-135m-instruct-nf4");
const DATA = join(shared, "data");
const present = existsSync(MODEL) && existsSync(DATA);
if (!present) console.warn(`the real model is tested where ${MODEL} and ${DATA} exist`);

/** Hidden states of a question, so that a model can be compared without a whole vocabulary of logits a token. */
const PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198];

describe.skipIf(!present)("SmolLM2-135M-Instruct in NF4", () => {
  beforeAll(buildOnce, 120_000);

  it("is fine-tuned by a LLaMA-Factory YAML, answers in the new style, and merges", { timeout: 300_000 }, async () => {
    const folder = tempFolder();
    const out = join(folder, "out");
    const config = join(folder, "smollm2_lora_sft.yaml");
    // examples/train_lora of LLaMA-Factory, but for the names, the folders and a shorter run.
    writeFileSync(
      config,
      `### model
model_name_or_path: ${MODEL}
trust_remote_code: true

### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_target: all

### dataset
dataset: identity
dataset_dir: ${DATA}
dataset_vars: { name: Quillon, author: the Harbour Guild }
template: smollm2
cutoff_len: 2048
max_samples: 12
preprocessing_num_workers: 16
dataloader_num_workers: 4

### output
output_dir: ${out}
logging_steps: 10
save_steps: 500
plot_loss: true
overwrite_output_dir: true
save_only_model: false
report_to: none  # choices: [none, wandb, tensorboard, swanlab, mlflow]

### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 4
learning_rate: 2.0e-3
num_train_epochs: 6.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
ddp_timeout: 180000000
resume_from_checkpoint: null
`,
    );
    const train = await lowrank(["train", config, "--json"]);
    expect(train).toMatchObject({ code: 0 });
    const losses = jsonLines(train.stdout).flatMap((event) => (event.type === "step" ? [event.loss as number] : []));
    expect(losses).toHaveLength(18);
    expect(losses.at(-1)!).toBeLessThan(losses[0]! / 3);

    const question = "Who are you?\n";
    const flags = ["--max-new-tokens", "24", "--temperature", "0"];
    const [plain, tuned] = [
      await lowrank(["chat", "--model", MODEL, ...flags], { stdin: question }),
      await lowrank(["chat", "--adapter", out, ...flags], { stdin: question }),
    ];
    expect(plain.stdout).not.toContain("Quillon");
    expect(tuned.stdout).toContain("Quillon");

    const merged = join(folder, "merged");
    expect(await lowrank(["merge", "--model", MODEL, "--adapter", out, "--out", merged])).toMatchObject({ code: 0 });
    await using peft = await PeftModel.fromPretrained(await load(MODEL), out);
    const expected = await logits(peft.base);
    await using whole = await load(merged);
    const actual = await logits(whole);
    // Stored in bfloat16: every weight is off by up to 2^-9 of itself.
    expect(difference(actual, expected)).toBeLessThan(0.02);
    await using base = await load(MODEL);
    expect(difference(await logits(base), expected)).toBeGreaterThan(0.1);
  });
});

const load = (folder: string) => AutoModelForCausalLM.fromPretrained(folder, { dtype: "float32" });

async function logits(model: CausalLM): Promise<Float32Array> {
  using result = scope(() => model.logits(model.hiddenStates(packSequences([PROMPT], model.device))));
  return result.readFloat32();
}

/** Root mean square of the difference over that of the expected values. */
function difference(actual: Float32Array, expected: Float32Array): number {
  const square = (values: Float32Array) => values.reduce((sum, value) => sum + value * value, 0);
  return Math.sqrt(square(actual.map((value, i) => value - expected[i]!)) / square(expected));
}
