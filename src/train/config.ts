import { parseDocument } from "yaml";
import { LowrankError } from "../errors.js";
import { LIMITS, readTextFile } from "../io/input.js";
import type { Json, JsonObject } from "../io/json.js";
import { scheduleProblems } from "../optim/schedules.js";
import { didYouMean } from "../suggest.js";
import { KEYS, type TrainConfig, UNSUPPORTED, UNSUPPORTED_VALUES, WITHOUT_EFFECT } from "./config-keys.js";
import { fileName } from "./key.js";
import { loraProblems } from "./lora-keys.js";

export type { TrainConfig } from "./config-keys.js";

export interface ParseOptions {
  /** `key=value` texts that win over the file. */
  overrides?: readonly string[];
  /** Names the file in errors. */
  source?: string;
}
export interface ParsedTrainConfig {
  config: TrainConfig;
  /** At most one sentence: the keys that were accepted and do nothing. */
  notes: string[];
}

const NAMES = Object.keys(KEYS) as (keyof TrainConfig)[];
const BY_FILE_NAME = new Map(NAMES.map((name) => [fileName(name), name]));
const ALIASES: Readonly<Record<string, string>> = {
  evaluation_strategy: "eval_strategy",
  cutoff_length: "cutoff_len",
  modules_to_save: "additional_target",
};
/** Keys of the file that decide other keys' values. */
const SPECIAL = ["do_train", "warmup_ratio", "disable_gradient_checkpointing", ...Object.keys(ALIASES)];

const KNOWN = [...BY_FILE_NAME.keys(), ...WITHOUT_EFFECT, ...Object.keys(UNSUPPORTED), ...SPECIAL];

/** Reads and checks a training YAML. Throws NOT_FOUND, INVALID_FILE (no text file) or INVALID_CONFIG with all mistakes. */
export async function loadTrainConfig(path: string, overrides: readonly string[] = []): Promise<ParsedTrainConfig> {
  const text = await readTextFile(path, LIMITS.yaml).catch((error) => {
    if (!(error instanceof LowrankError) || error.code !== "NOT_FOUND") throw error;
    throw new LowrankError("NOT_FOUND", `${path} cannot be read: ENOENT`, { details: { file: path }, cause: error });
  });
  return parseTrainConfig(text, { overrides, source: path });
}

/**
 * Checks a training configuration in LLaMA-Factory's keys, given as YAML text or as an object. Keys that change nothing here are
 * accepted with one note; keys and values that are known but not computed, unknown keys, wrong types and contradictions are all
 * listed in one INVALID_CONFIG error.
 */
export function parseTrainConfig(input: string | JsonObject, options: ParseOptions = {}): ParsedTrainConfig {
  const source = options.source ?? "the training configuration";
  const given = { ...(typeof input === "string" ? parseYaml(input, source) : input) };
  for (const override of options.overrides ?? []) {
    const [, key, value] = /^(?:--)?([\w.]+)=(.*)$/s.exec(override) ?? [];
    if (key === undefined) throw invalid(source, [`'${override}' on the command line should be key=value`]);
    if (key === "__proto__") throw invalid(source, [`unknown key '${key}'`]); // an assignment would set the prototype
    given[key] = parseYaml(`v: ${value}`, `'${override}'`).v ?? null;
  }
  for (const [alias, key] of Object.entries(ALIASES)) {
    if (!Object.hasOwn(given, alias)) continue;
    given[key] ??= given[alias]!;
    delete given[alias];
  }
  const problems: string[] = [];
  const config = readKeys(given, problems);
  settle(config, given, problems);
  if (problems.length > 0) throw invalid(source, problems);
  const idle = Object.keys(given).filter((key) => WITHOUT_EFFECT.has(key));
  return { config, notes: idle.length > 0 ? [`accepted without effect: ${idle.sort().join(", ")}`] : [] };
}

/** The configuration in the file's names: for training_args.json, hashes and differences. */
export function toFileKeys(config: TrainConfig): JsonObject {
  return Object.fromEntries(NAMES.map((name) => [fileName(name), config[name] as Json]));
}

function parseYaml(text: string, source: string): JsonObject {
  // YAML 1.1 as PyYAML reads it (yes, no, 0x10, 1_000), but a date stays the text it is.
  const customTags = (tags: { tag: string }[]) => tags.filter(({ tag }) => !tag.endsWith("timestamp"));
  if (text.length > LIMITS.yaml.bytes) throw invalid(source, [`longer than ${LIMITS.yaml.bytes} characters`]);
  let value: unknown;
  try {
    const document = parseDocument(text, {
      version: "1.1",
      uniqueKeys: true,
      logLevel: "error",
      customTags: customTags as never,
    });
    const [error] = document.errors;
    if (error) throw error;
    value = document.toJS({ maxAliasCount: 100 });
    checkDepth(value, 0);
  } catch (error) {
    // Also aliases without end (ReferenceError) and nesting that exhausts the stack (RangeError).
    throw invalid(source, [`not valid YAML: ${(error as Error).message.split("\n")[0]}`]);
  }
  if (value === null || typeof value !== "object" || Array.isArray(value))
    throw invalid(source, ["expected keys with values (key: value)"]);
  return value as JsonObject;
}

/** What is deep here would exhaust the stack elsewhere. */
function checkDepth(value: unknown, depth: number): void {
  if (depth > LIMITS.depth) throw new RangeError(`nested more than ${LIMITS.depth} deep`);
  if (typeof value === "object" && value !== null) for (const part of Object.values(value)) checkDepth(part, depth + 1);
}

function readKeys(given: JsonObject, problems: string[]): TrainConfig {
  const config: Record<string, Json> = {};
  for (const name of NAMES) config[name] = structuredClone(KEYS[name].default);
  for (const [key, value] of Object.entries(given)) {
    const name = BY_FILE_NAME.get(key);
    if (name !== undefined) {
      const read = value === null && KEYS[name].default !== null ? KEYS[name].default : KEYS[name].read(value);
      if (read !== undefined) config[name] = read;
      else if (UNSUPPORTED_VALUES[key]?.test(String(value)))
        problems.push(`${key}: ${value} is known but not supported yet (${KEYS[name].expected})`);
      else
        problems.push(
          `${key} should be ${KEYS[name].expected}, found ${JSON.stringify(value)}${textHint(value, KEYS[name].expected)}`,
        );
    } else if (Object.hasOwn(UNSUPPORTED, key)) {
      if (value !== null && !UNSUPPORTED[key]!.includes(value))
        problems.push(`${key}: ${JSON.stringify(value)} is known but not supported yet`);
    } else if (!WITHOUT_EFFECT.has(key) && !SPECIAL.includes(key)) {
      // Comparing takes time: a file with hundreds of unknown keys is another kind of file.
      problems.push(`unknown key '${key}'${problems.length < 50 ? didYouMean(key, KNOWN) : ""}`);
    }
  }
  return config as unknown as TrainConfig;
}

/** A choice that is nearly right, or a value that was put in quotes. */
function textHint(value: Json, expected: string): string {
  if (typeof value !== "string") return "";
  if (expected.startsWith("one of ")) return didYouMean(value, expected.slice(7).split(", "));
  return /^(true|false|-?[\d.]+(e-?\d+)?)$/i.test(value) ? " (without quotes)" : "";
}

/** Defaults that follow from other keys, and the rules between keys. */
function settle(config: TrainConfig, given: JsonObject, problems: string[]): void {
  const isGiven = (key: string) => given[key] !== undefined && given[key] !== null;
  const say = (condition: boolean, sentence: string) => {
    if (condition) problems.push(sentence);
  };
  config.loraAlpha = config.loraAlpha || config.loraRank * 2; // LLaMA-Factory takes 0 for "not given"
  if (config.neatPacking || (config.stage === "pt" && !isGiven("packing"))) config.packing = true;
  if (config.neatPacking || given.packing === true) config.cutoffLen -= 1;
  if (config.evalStrategy === "steps") config.evalSteps ??= config.loggingSteps;
  if (config.evalStrategy !== "no") config.doEval = true;
  if (given.disable_gradient_checkpointing === true) config.gradientCheckpointing = false;
  const ratio = given.warmup_ratio ?? 0;
  if (typeof ratio !== "number" || ratio < 0 || ratio > 1)
    problems.push(`warmup_ratio should be a number from 0 to 1, found ${JSON.stringify(ratio)}`);
  else if (isGiven("warmup_ratio")) config.warmupSteps = ratio; // as in transformers, also over warmup_steps

  say(!isGiven("model_name_or_path"), "model_name_or_path is missing");
  say(!isGiven("dataset"), "dataset is missing");
  say(!isGiven("output_dir"), "output_dir is missing");
  say(given.do_train === false, "do_train: false leaves nothing to do for train");
  say(given.fp16 === true && config.bf16, "fp16 and bf16 exclude each other");
  say(config.maskHistory && config.trainOnPrompt, "mask_history and train_on_prompt exclude each other");
  say(
    config.stage !== "sft" && (config.maskHistory || config.trainOnPrompt),
    "mask_history and train_on_prompt are for stage: sft",
  );
  say(config.stage !== "sft" && config.neatPacking, "neat_packing is for stage: sft");
  say(config.valSize > 0 && config.evalDataset !== null, "val_size and eval_dataset exclude each other");
  say(config.doEval && config.valSize === 0 && config.evalDataset === null, "evaluation needs val_size or eval_dataset");
  say(
    config.activationOffloading && !config.gradientCheckpointing,
    "activation_offloading goes with gradient_checkpointing: true only",
  );
  say(
    config.quantizationBit !== null && config.finetuningType === "full",
    "quantization_bit goes with finetuning_type: lora only",
  );
  say(
    config.trainFromScratch && (config.finetuningType === "lora" || isGiven("adapter_name_or_path")),
    "train_from_scratch goes with finetuning_type: full only",
  );
  problems.push(
    ...loraProblems(config),
    ...scheduleProblems({ type: config.lrSchedulerType, baseLr: config.learningRate, kwargs: config.lrSchedulerKwargs }),
  );
}

function invalid(source: string, problems: string[]): LowrankError {
  return new LowrankError(
    "INVALID_CONFIG",
    `${source} has ${problems.length === 1 ? "a mistake" : `${problems.length} mistakes`}:\n- ${problems.join("\n- ")}`,
    {
      hint: "Correct the file and run again; `lowrank train CONFIG --dry-run` checks it without training.",
      details: { problems },
    },
  );
}
