import { createHash } from "node:crypto";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buildExamples, type TokenExample } from "../../src/data/examples.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { AutoTokenizer, type Tokenizer } from "../../src/text/tokenizer.js";
import type { StepEvent } from "../../src/train/events.js";
import { Trainer } from "../../src/train/trainer.js";
import { trainBpe } from "./bpe.js";
import { documents } from "./corpus.js";
import { GENERATION_CONFIG, MODEL_CONFIG, TOKENIZER_CONFIG, VOCAB_SIZE } from "./files.js";
import { RECIPE, TOTAL_STEPS } from "./recipe.js";

/** The first `count` documents of the corpus. */
export function corpus(count: number): string[] {
  const stream = documents(RECIPE.seed);
  return Array.from({ length: count }, () => stream.next().value);
}

/** Trains the tokenizer and writes its files and the configs into a folder. */
export async function makeTokenizer(folder: string): Promise<Tokenizer> {
  await mkdir(folder, { recursive: true });
  const json = trainBpe(corpus(RECIPE.tokenizerDocuments).join(""), VOCAB_SIZE);
  const files = {
    "tokenizer.json": json,
    "tokenizer_config.json": TOKENIZER_CONFIG,
    "config.json": MODEL_CONFIG,
    "generation_config.json": GENERATION_CONFIG,
  };
  for (const [name, value] of Object.entries(files)) await writeFile(join(folder, name), `${JSON.stringify(value, null, 1)}\n`);
  return AutoTokenizer.fromPretrained(folder);
}

/** The documents of the first `steps` steps as token ids, all of them targets. */
export async function makeExamples(tokenizer: Tokenizer, steps: number): Promise<TokenExample[]> {
  const rows = corpus(steps * RECIPE.args.perDeviceTrainBatchSize).map((text) => ({ kind: "text" as const, text }));
  const { examples } = await buildExamples(rows, tokenizer, { cutoffLen: MODEL_CONFIG.max_position_embeddings });
  return examples;
}

/** SHA-256 of all token ids in order. */
export function dataHash(examples: readonly TokenExample[]): string {
  const hash = createHash("sha256");
  for (const { inputIds } of examples) hash.update(`${inputIds.join(" ")}\n`);
  return hash.digest("hex");
}

export interface TrainedModel {
  /** The caller disposes it. */
  model: CausalLM;
  /** Mean loss of each step, in nats a token. */
  losses: number[];
  tokens: number;
}

/** Trains a fresh model in float32; of the whole recipe, only the first `steps` steps. */
export async function trainFromScratch(
  tokenizer: Tokenizer,
  examples: readonly TokenExample[],
  steps: number,
  onStep: (event: StepEvent) => void = () => {},
): Promise<TrainedModel> {
  const model = AutoModelForCausalLM.fromConfig(MODEL_CONFIG, { seed: RECIPE.seed, dtype: "float32", tokenizer });
  const trainer = new Trainer({ model, tokenizer, dataset: examples, args: RECIPE.args });
  const losses: number[] = [];
  for await (const event of trainer.run()) {
    if (event.type === "warning") throw new Error(event.message);
    if (event.type !== "step") continue;
    losses.push(event.loss);
    onStep(event);
    if (event.step === steps && steps < TOTAL_STEPS) break;
  }
  const read = examples.slice(0, steps * RECIPE.args.perDeviceTrainBatchSize);
  return { model, losses, tokens: read.reduce((sum, { inputIds }) => sum + inputIds.length, 0) };
}
