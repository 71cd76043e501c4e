import { writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Sequences } from "../../src/data/batches.js";
import { LowrankError } from "../../src/errors.js";
import type { Tokenizer } from "../../src/text/tokenizer.js";
import type { Finding } from "../../src/train/checks/finding.js";
import { parseTrainConfig } from "../../src/train/config.js";
import type { TrainEvent, WarningEvent } from "../../src/train/events.js";
import { type PreparedData, prepareData } from "../../src/train/run-config.js";
import { Trainer, type TrainerOptions } from "../../src/train/trainer.js";
import { makeModel } from "../cli/run.js";
import { tempFolder } from "../io/files.js";
import { BOS, byteTokenizer, END } from "../text/byte-tokenizer.js";
import { tinyPeft } from "../train/tiny.js";

export const CHAT =
  "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}";

export const tokenizerWith = (template?: string): Promise<Tokenizer> =>
  byteTokenizer(join(tempFolder(), "tokenizer"), template === undefined ? {} : { template });

/** An example in pieces: text or ids, learnt where they stand in a list of their own. */
export type Piece = string | number | [string | number];
export function example(...pieces: Piece[]): { inputIds: Int32Array; labels: Int32Array } {
  const inputIds: number[] = [];
  const labels: number[] = [];
  for (const piece of pieces) {
    const value = Array.isArray(piece) ? piece[0] : piece;
    const ids = typeof value === "string" ? [...Buffer.from(value)] : [value];
    inputIds.push(...ids);
    labels.push(...(Array.isArray(piece) ? ids : ids.map(() => -100)));
  }
  return { inputIds: Int32Array.from(inputIds), labels: Int32Array.from(labels) };
}

/** Answers of several lengths, as they should be. */
export const honest = (count = 8): { inputIds: Int32Array; labels: Int32Array }[] =>
  Array.from({ length: count }, (_, i) => example(BOS, `question ${i}:`, [`answer number ${i} of ${count}`], [END]));

export type Outcome = { code: string; message: string; hint: string; examples?: readonly number[] };

/** What a Trainer says of these data before its first step: warnings, or the findings of the error it throws. */
export async function seenByTrainer(dataset: Sequences, options: Partial<TrainerOptions> = {}): Promise<Outcome[]> {
  await using peft = await tinyPeft();
  const seen: Outcome[] = [];
  try {
    for await (const event of new Trainer({ model: peft, dataset, ...options, args: { maxSteps: 3, ...options.args } }).run()) {
      if (event.type === "warning") seen.push({ code: event.code!, message: event.message, hint: event.hint! });
      if (event.type === "step") break;
    }
  } catch (error) {
    if (!(error instanceof LowrankError) || error.details.findings === undefined) throw error;
    return (error.details.findings as Finding[]).map((found) => ({ ...found, code: `${error.code} ${found.code}` }));
  }
  return seen;
}

export const codesOf = (outcomes: readonly { code: string }[]): string[] => outcomes.map(({ code }) => code);

export const warningsOf = (events: readonly TrainEvent[]): WarningEvent[] =>
  events.flatMap((event) => (event.type === "warning" ? [event] : []));

export interface Planted {
  rows: readonly object[];
  evalRows?: readonly object[];
  /** More YAML. */
  yaml?: string;
  template?: string | null;
}

/** A YAML beside a tiny model of bytes and these rows. */
export async function plant({
  rows,
  evalRows,
  yaml = "",
  template,
}: Planted): Promise<{ folder: string; config: string; text: string }> {
  const folder = tempFolder();
  await makeModel(join(folder, "model"), template === undefined ? {} : { template });
  writeFileSync(join(folder, "rows.json"), JSON.stringify(rows));
  if (evalRows) writeFileSync(join(folder, "eval.json"), JSON.stringify(evalRows));
  const text = [
    `model_name_or_path: ${join(folder, "model")}`,
    `dataset: ${join(folder, "rows.json")}`,
    ...(evalRows ? [`eval_dataset: ${join(folder, "eval.json")}`, "eval_strategy: steps"] : []),
    `output_dir: ${join(folder, "out")}`,
    ...(/lora_rank|full/.test(yaml) ? [] : ["lora_rank: 2"]),
    "max_steps: 3",
    yaml.replaceAll("FOLDER", folder),
  ].join("\n");
  const config = join(folder, "job.yaml");
  writeFileSync(config, text);
  return { folder, config, text };
}

/** What `prepareData` finds in a planted job. */
export async function prepared(planted: Planted): Promise<PreparedData> {
  const { text } = await plant(planted);
  return prepareData(parseTrainConfig(text).config);
}

export const foundIn = async (planted: Planted): Promise<string[]> => codesOf((await prepared(planted)).findings);

export const alpaca = (count = 8, output = (i: number) => `the answer is ${i}`): object[] =>
  Array.from({ length: count }, (_, i) => ({ instruction: `question ${i}`, input: "", output: output(i) }));
