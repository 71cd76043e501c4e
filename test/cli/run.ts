import { spawn, spawnSync } from "node:child_process";
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { byteTokenizer } from "../text/byte-tokenizer.js";
import { TINY } from "../train/tiny.js";

const root = join(import.meta.dirname, "../..");

export interface Outcome {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  env?: Record<string, string>;
  stdin?: string;
  /** Sends a signal to the child when stdout or stderr first matches, and perhaps another some milliseconds later. */
  signalWhen?: { pattern: RegExp; signal: NodeJS.Signals; again?: { after: number; signal: NodeJS.Signals } };
  /** Words before the command, such as `unshare -rm`. */
  wrapper?: readonly string[];
}

/** Builds what is not built, so that the tests never run an old command line. */
export function buildOnce(): void {
  const { status, stderr } = spawnSync(process.execPath, ["scripts/build.mjs"], { cwd: root, encoding: "utf8" });
  if (status !== 0) throw new Error(stderr);
}

/** Runs the command line as a person would, in the checkout. */
export function lowrank(args: readonly string[], options: RunOptions = {}): Promise<Outcome> {
  const [program, ...rest] = [...(options.wrapper ?? []), process.execPath, join(root, "dist/cli/main.js"), ...args];
  const child = spawn(program!, rest, { cwd: root, env: { ...process.env, HF_HUB_OFFLINE: "1", ...options.env } });
  const outcome = { stdout: "", stderr: "" };
  let signalled = false;
  const watch = () => {
    if (!signalled && options.signalWhen?.pattern.test(outcome.stdout + outcome.stderr)) {
      signalled = true;
      const { signal, again } = options.signalWhen;
      child.kill(signal);
      if (again) setTimeout(() => child.kill(again.signal), again.after);
    }
  };
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    outcome.stdout += text;
    watch();
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    outcome.stderr += text;
    watch();
  });
  child.stdin.end(options.stdin ?? "");
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, ...outcome }));
  });
}

export const jsonLines = (stdout: string): Record<string, unknown>[] =>
  stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>);

const TEMPLATE =
  "{% for m in messages %}<s>{{ m.role }}: {% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}";

/** A tiny Llama with a tokenizer of bytes. */
export async function makeModel(folder: string, options: { template?: string | null } = {}): Promise<string> {
  cpSync(TINY, folder, { recursive: true });
  const template = options.template === undefined ? TEMPLATE : options.template;
  await byteTokenizer(folder, template === null ? {} : { template });
  return folder;
}

export interface Job {
  model: string;
  config: string;
  out: string;
}

/** A model, an alpaca file of ten rows, and a YAML that trains on it for some steps. */
export async function makeJob(folder: string, yaml = ""): Promise<Job> {
  const model = await makeModel(join(folder, "model"));
  const rows = Array.from({ length: 10 }, (_, i) => ({
    instruction: `Count to ${i}`,
    input: "",
    output: "abcdefghij".slice(0, i + 1),
  }));
  writeFileSync(join(folder, "rows.json"), JSON.stringify(rows));
  const out = join(folder, "out");
  const config = join(folder, "job.yaml");
  writeFileSync(
    config,
    `model_name_or_path: ${model}
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 4
lora_target: all
dataset: ${join(folder, "rows.json")}
cutoff_len: 64
output_dir: ${out}
logging_steps: 1
per_device_train_batch_size: 2
gradient_accumulation_steps: 1
learning_rate: 1.0e-2
max_steps: 4
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: true
preprocessing_num_workers: 16
${yaml}`,
  );
  return { model, config, out };
}
