import { countTargets } from "../data/collate.js";
import { buildExamples, type ExampleStats, type TokenExample } from "../data/examples.js";
import { type DataRow, loadRows } from "../data/rows.js";
import { splitRows } from "../data/shuffle.js";
import { LowrankError } from "../errors.js";
import type { CausalLM } from "../models/causal-lm.js";
import { readConfigFile } from "../models/config-reader.js";
import { type LoadProgress, resolveFolder } from "../models/from-pretrained.js";
import { AutoModelForCausalLM } from "../models/registry.js";
import { PeftModel } from "../peft/peft-model.js";
import type { StartOptions } from "../peft/start.js";
import { getDevice } from "../tensor/device.js";
import { chatTemplateFor } from "../text/templates.js";
import { AutoTokenizer, type Tokenizer } from "../text/tokenizer.js";
import { argumentsOf, dealBatches } from "./arguments.js";
import { readFacts } from "./checks/facts.js";
import { assertSound, type Finding } from "./checks/finding.js";
import { checkExamples, checkSettings } from "./checks/index.js";
import { checkPrepared } from "./checks/prepared.js";
import { checkAdapter } from "./checks/run.js";
import { type TrainConfig, toFileKeys } from "./config.js";
import { pairShapes, trainedShapes, withAdapter } from "./lora.js";
import { assertUsable } from "./run-folder.js";
import type { TrainerOptions } from "./trainer.js";

export interface PrepareOptions {
  signal?: AbortSignal | undefined;
  onLoad?: ((progress: LoadProgress) => void) | undefined;
  /** Told of the matrices that a PiSSA or OLoRA start is taken from. */
  onStart?: StartOptions["onProgress"];
  onTokenize?: ((done: number, total: number) => void) | undefined;
}

/** The data of a run, tokenised; nothing of it lies on a device. */
export interface PreparedData {
  /** Folder of the model. */
  folder: string;
  tokenizer: Tokenizer;
  /** Jinja template the conversations were rendered with. */
  chatTemplate: string | undefined;
  train: TokenExample[];
  stats: ExampleStats;
  validation: TokenExample[] | undefined;
  /** Silent mistakes of data and settings; `prepareRun` throws where one is an error. */
  findings: Finding[];
  /** What in the files of model, tokenizer and adapter has no effect here. */
  notes: string[];
}

/** What a training configuration asks for, ready to run. The caller disposes of the model. */
export interface PreparedRun extends PreparedData {
  model: PeftModel<CausalLM> | CausalLM;
  /** Everything a Trainer takes. */
  trainer: TrainerOptions;
}

/**
 * The folder, tokenizer and examples of a configuration. Mistakes that can be seen without the model's weights are found here.
 *
 * @throws LowrankError INVALID_CONFIG, NOT_FOUND, TEMPLATE, DATASET, or ADAPTER_MISMATCH where lora_target names nothing
 */
export async function prepareData(config: TrainConfig, options: PrepareOptions = {}): Promise<PreparedData> {
  const { signal, onLoad } = options;
  const folder = await resolveFolder(config.modelNameOrPath, {
    revision: config.modelRevision,
    ...(config.cacheDir !== null && { cacheDir: config.cacheDir }),
    ...(signal && { signal }),
    ...(onLoad && { onProgress: onLoad }),
  });
  const notes: string[] = [];
  const onNote = (note: string) => void notes.push(note);
  const tokenizer = await AutoTokenizer.fromPretrained(folder, { onNote });
  const chatTemplate = chatTemplateFor(tokenizer, config.template);
  const read = async (dataset: readonly string[]): Promise<DataRow[]> => {
    const rows = await loadRows({
      dataset,
      datasetDir: config.datasetDir,
      stage: config.stage,
      datasetVars: config.datasetVars,
      seed: config.dataSeed ?? config.seed,
      ...(config.maxSamples !== null && { maxSamples: config.maxSamples }),
    });
    return rows.map((row) => withSystem(row, config.defaultSystem));
  };
  const rows = await read(config.dataset);
  if (chatTemplate === undefined && rows.some(({ kind }) => kind === "chat")) throw noTemplate();
  const split = config.valSize > 0 ? splitRows(rows, config.valSize, config.dataSeed ?? config.seed) : undefined;
  if (split?.train.length === 0) {
    throw new LowrankError(
      "INVALID_CONFIG",
      `val_size: ${config.valSize} takes all ${rows.length} rows, none is left to train on`,
      {
        hint: "Set a smaller val_size; from 1 on it counts rows, below 1 it is a share.",
      },
    );
  }
  const trainRows = split?.train ?? rows;
  const validationRows = split?.validation ?? (config.evalDataset && (await read(config.evalDataset)));
  const build = (part: readonly DataRow[], onProgress?: (done: number, total: number) => void) =>
    buildExamples(part, tokenizer, {
      onProgress: (done, total) => {
        signal?.throwIfAborted();
        onProgress?.(done, total);
      },
      chatTemplate,
      cutoffLen: config.cutoffLen,
      trainOnPrompt: config.trainOnPrompt,
      maskHistory: config.maskHistory,
      ...(config.enableThinking !== null && { variables: { enable_thinking: config.enableThinking } }),
    });
  const { examples: train, stats } = await build(trainRows, options.onTokenize);
  signal?.throwIfAborted();
  const validation = validationRows ? await forEvaluation(build(validationRows)) : undefined;
  const { facts, json } = await readFacts(folder, tokenizer, onNote);
  const answers = config.stage === "sft" && trainRows.some(({ kind }) => kind === "chat" || kind === "completion");
  const findings = [
    ...checkPrepared({ config, facts, tokenizer, chatTemplate, rows: trainRows, examples: train, stats }),
    ...(await checkExamples({ train, evaluation: validation, facts, tokenizer, chatTemplate, answers })),
    ...checkSettings(
      { args: config, totalSteps: dealBatches(config, train).totalSteps, hasEval: validation !== undefined },
      json && config.finetuningType === "lora" && config.adapterNameOrPath === null
        ? { pairs: pairShapes(config, json), dropout: config.loraDropout }
        : undefined,
      train,
      facts.vocabSize,
    ),
  ];
  return { folder, tokenizer, chatTemplate, train, stats, validation, findings, notes };
}

/** A set that nothing is left of is a mistake of the evaluation set, which the sentence should say. */
async function forEvaluation(built: Promise<{ examples: TokenExample[] }>): Promise<TokenExample[]> {
  try {
    return (await built).examples;
  } catch (error) {
    if (!(error instanceof LowrankError) || error.code !== "DATASET") throw error;
    throw new LowrankError("DATASET", `Evaluation set: ${error.message}`, {
      ...(error.hint !== undefined && { hint: error.hint }),
      details: error.details,
      cause: error,
    });
  }
}

/**
 * Model, adapter and data of a configuration.
 *
 * The file's `bf16` and `fp16` choose nothing here: products are computed in "auto", which is bfloat16 where the machine multiplies it
 * and float32 elsewhere, so that LLaMA-Factory's `bf16: true` runs on every machine. Adapters and optimizer are always float32.
 */
export async function prepareRun(
  config: TrainConfig,
  options: PrepareOptions & {
    allowChange?: readonly string[];
    /** Findings that are errors and accepted, by their codes. */
    allow?: readonly string[];
    ignoreMismatchedBase?: boolean;
  } = {},
): Promise<PreparedRun> {
  const args = argumentsOf(config);
  await assertUsable(config.outputDir, config);
  const data = await prepareData(config, options);
  assertSound(data.findings, options.allow);
  const model = await loadBase(config, data, options);
  try {
    const trained =
      config.finetuningType === "full"
        ? model
        : await withAdapter(model, config, {
            seed: config.seed,
            ignoreMismatchedBase: options.ignoreMismatchedBase === true,
            signal: options.signal,
            onProgress: options.onStart,
            onNote: (note) => void data.notes.push(note),
          });
    options.signal?.throwIfAborted();
    const findings = [...data.findings, ...(config.adapterNameOrPath === null ? [] : loadedFindings(trained, data))];
    const trainer: TrainerOptions = {
      model: trained,
      dataset: data.train,
      ...(data.validation && { evalDataset: data.validation }),
      args,
      tokenizer: data.tokenizer,
      chatTemplate: data.chatTemplate,
      config: toFileKeys(config),
      allowChange: options.allowChange ?? [],
      findings,
      notes: data.notes,
      allow: options.allow ?? [],
    };
    return { ...data, findings, model: trained, trainer };
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/** An adapter that is trained further brings its own shapes. */
function loadedFindings(trained: PeftModel<CausalLM> | CausalLM, { train }: PreparedData): Finding[] {
  if (!(trained instanceof PeftModel)) return [];
  const targetTokens = train.reduce((sum, { labels }) => sum + countTargets(labels), 0);
  return checkAdapter(trainedShapes(trained), trained.trainable.config.loraDropout, {
    targetTokens,
    vocabSize: trained.base.vocabSize,
  });
}

/** The base's files were read for the data: what has no effect in them is noted by then. */
const saidAlready = () => {};

async function loadBase(config: TrainConfig, data: PreparedData, { signal, onLoad }: PrepareOptions): Promise<CausalLM> {
  if (config.memoryBudget !== null) getDevice(config.device).memoryBudget = config.memoryBudget;
  if (config.trainFromScratch) {
    const json = await readConfigFile(data.folder);
    const { seed, device } = config;
    return AutoModelForCausalLM.fromConfig(json, { device, seed, tokenizer: data.tokenizer, onNote: saidAlready });
  }
  return AutoModelForCausalLM.fromPretrained(config.modelNameOrPath, {
    revision: config.modelRevision,
    ...(config.cacheDir !== null && { cacheDir: config.cacheDir }),
    device: config.device,
    loadIn4bit: config.quantizationBit === 4,
    bnb4bitQuantType: config.quantizationType,
    bnb4bitUseDoubleQuant: config.doubleQuantization,
    onNote: saidAlready,
    ...(signal && { signal }),
    ...(onLoad && { onProgress: onLoad }),
  });
}

/** `default_system` stands in for the system message of conversations that have none. */
function withSystem(row: DataRow, system: string | null): DataRow {
  if (row.kind !== "chat" || !system || row.messages[0]?.role === "system") return row;
  return { ...row, messages: [{ role: "system", content: system }, ...row.messages] };
}

/** A mistake of the configuration, not of the template: exit code 2. */
function noTemplate(): LowrankError {
  return new LowrankError(
    "INVALID_CONFIG",
    "this model has no chat template: set template: chatml | llama3 | … or use stage: pt",
  );
}
