import { readdir } from "node:fs/promises";
import { join, resolve } from "node:path";
import { LowrankError } from "../errors.js";
import { writeFolder } from "../io/durable.js";
import { readJsonFile } from "../io/json.js";
import type { CausalLM } from "../models/causal-lm.js";
import type { PeftModel } from "../peft/peft-model.js";
import { ADAPTERS, adapterTraining } from "./adapters.js";
import type { Score } from "./events.js";

/** The file that says a folder was made by the quickstart, and may be overwritten by it. */
const MARK = "quickstart.json";
const MADE_BY = "lowrank quickstart";
/** A training configuration for a real model, and its rows. */
export const NEXT_CONFIG = "real_model.yaml";
const NEXT_ROWS = "identity_rows.json";

/** Refuses a folder with content that is not a former quickstart's. Throws INVALID_ARGUMENT. */
export async function assertMayWrite(out: string): Promise<void> {
  const names = await readdir(out).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [] as string[];
    throw new LowrankError("INVALID_ARGUMENT", `${out} cannot be used as a folder: ${error.code}`, {
      hint: "Choose another one: --out DIR",
      cause: error,
    });
  });
  if (names.length === 0) return;
  const mark = names.includes(MARK) ? await readJsonFile(join(out, MARK)).catch(() => undefined) : undefined;
  if (mark?.made_by === MADE_BY) return;
  throw new LowrankError("INVALID_ARGUMENT", `${out} holds files that are not those of an earlier quickstart`, {
    hint: "Choose another folder: --out DIR",
  });
}

/** Saves both adapters, the scores, and what is needed to do the same to a real model, all or nothing. */
export async function saveAdapters(
  out: string,
  peft: PeftModel<CausalLM>,
  facts: { version: string; seed: number; isa: string; scores: readonly Score[] },
): Promise<void> {
  const rows = adapterTraining("identity", facts.seed).map(({ question, answer }) => ({
    instruction: question,
    input: "",
    output: answer,
  }));
  await writeFolder(
    out,
    async (dir) => {
      await peft.write(dir, ADAPTERS);
      await dir.file(NEXT_ROWS, json(rows));
      await dir.file(NEXT_CONFIG, realModelConfig(resolve(out)));
      await dir.file(MARK, json({ made_by: MADE_BY, ...facts }));
    },
    { replace: true },
  );
}

/** QLoRA of a real chat model on the identity rows, in LLaMA-Factory's keys. */
function realModelConfig(out: string): string {
  return `# npx lowrank train ${JSON.stringify(join(out, NEXT_CONFIG))}
model_name_or_path: HuggingFaceTB/SmolLM2-135M-Instruct
quantization_bit: 4

stage: sft
do_train: true
finetuning_type: lora
lora_rank: 16
lora_alpha: 32
lora_target: all

dataset_dir: ${JSON.stringify(out)}
dataset: ${NEXT_ROWS}
cutoff_len: 512

output_dir: ${JSON.stringify(join(out, "real_model"))}
overwrite_output_dir: true
per_device_train_batch_size: 4
learning_rate: 5.0e-4
num_train_epochs: 3
lr_scheduler_type: cosine
warmup_ratio: 0.05
`;
}

const json = (value: unknown) => `${JSON.stringify(value, null, 2)}\n`;
