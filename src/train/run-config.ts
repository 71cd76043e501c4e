import { buildExamples, type ExampleStats, type TokenExample } from "../data/examples.js";
import { type DataRow, loadRows } from "../data/rows.js";
import { splitRows } from "../data/shuffle.js";
import { LowrankError } from "../errors.js";
import type { CausalLM } from "../models/causal-lm.js";
import { readConfigFile } from "../models/config-reader.js";
import { type LoadProgress, resolveFolder } from "../models/from-pretrained.js";
import { AutoModelForCausalLM } from "../models/registry.js";
import { LoraConfig } from "../peft/config.js";
import { getPeftModel, PeftModel } from "../peft/peft-model.js";
import { chatTemplateFor } from "../text/templates.js";
import { AutoTokenizer, type Tokenizer } from "../text/tokenizer.js";
import { argumentsOf } from "./arguments.js";
import { type TrainConfig, toFileKeys } from "./config.js";
import { assertUsable } from "./run-folder.js";
import type { TrainerOptions } from "./trainer.js";

export interface PrepareOptions {
  signal?: AbortSignal | undefined;
  onLoad?: ((progress: LoadProgress) => void) | undefined;
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
 * @throws LowrankError INVALID_CONFIG, NOT_FOUND, TEMPLATE or DATASET
 */
export async function prepareData(config: TrainConfig, options: PrepareOptions = {}): Promise<PreparedData> {
  const { signal, onLoad } = options;
  const folder = await resolveFolder(config.modelNameOrPath, {
    revision: config.modelRevision,
    ...(config.cacheDir !== null && { cacheDir: config.cacheDir }),
    ...(signal && { signal }),
    ...(onLoad && { onProgress: onLoad }),
  });
  const tokenizer = await AutoTokenizer.fromPretrained(folder);
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
  const validationRows = split?.validation ?? (config.evalDataset && (await read(config.evalDataset)));
  const build = (part: readonly DataRow[], onProgress?: (done: number, total: number) => void) =>
    buildExamples(part, tokenizer, {
      chatTemplate,
      cutoffLen: config.cutoffLen,
      trainOnPrompt: config.trainOnPrompt,
      maskHistory: config.maskHistory,
      ...(config.enableThinking !== null && { variables: { enable_thinking: config.enableThinking } }),
      ...(onProgress && { onProgress }),
    });
  const { examples: train, stats } = await build(split?.train ?? rows, options.onTokenize);
  signal?.throwIfAborted();
  const validation = validationRows ? (await build(validationRows)).examples : undefined;
  return { folder, tokenizer, chatTemplate, train, stats, validation };
}

/**
 * Model, adapter and data of a configuration.
 *
 * The file's `bf16` and `fp16` choose nothing here: products are computed in "auto", which is bfloat16 where the machine multiplies it
 * and float32 elsewhere, so that LLaMA-Factory's `bf16: true` runs on every machine. Adapters and optimizer are always float32.
 */
export async function prepareRun(
  config: TrainConfig,
  options: PrepareOptions & { allowChange?: readonly string[]; ignoreMismatchedBase?: boolean } = {},
): Promise<PreparedRun> {
  const args = argumentsOf(config);
  await assertUsable(config.outputDir, config);
  const data = await prepareData(config, options);
  const model = await loadBase(config, data, options);
  try {
    const trained =
      config.finetuningType === "full" ? model : await withAdapter(model, config, options.ignoreMismatchedBase === true);
    options.signal?.throwIfAborted();
    const trainer: TrainerOptions = {
      model: trained,
      dataset: data.train,
      ...(data.validation && { evalDataset: data.validation }),
      args,
      tokenizer: data.tokenizer,
      chatTemplate: data.chatTemplate,
      config: toFileKeys(config),
      allowChange: options.allowChange ?? [],
    };
    return { ...data, model: trained, trainer };
  } catch (error) {
    model.dispose();
    throw error;
  }
}

/** The adapter that a configuration asks for. */
export function loraConfigOf(config: TrainConfig): LoraConfig {
  return new LoraConfig({
    taskType: "CAUSAL_LM",
    r: config.loraRank,
    loraAlpha: config.loraAlpha,
    loraDropout: config.loraDropout,
    useRslora: config.useRslora,
    targetModules: config.loraTarget.length === 1 && config.loraTarget[0] === "all" ? "all-linear" : config.loraTarget,
  });
}

async function loadBase(config: TrainConfig, data: PreparedData, { signal, onLoad }: PrepareOptions): Promise<CausalLM> {
  if (config.trainFromScratch) {
    const json = await readConfigFile(data.folder);
    return AutoModelForCausalLM.fromConfig(json, { seed: config.seed, tokenizer: data.tokenizer });
  }
  return AutoModelForCausalLM.fromPretrained(config.modelNameOrPath, {
    revision: config.modelRevision,
    ...(config.cacheDir !== null && { cacheDir: config.cacheDir }),
    loadIn4bit: config.quantizationBit === 4,
    bnb4bitQuantType: config.quantizationType,
    bnb4bitUseDoubleQuant: config.doubleQuantization,
    ...(signal && { signal }),
    ...(onLoad && { onProgress: onLoad }),
  });
}

async function withAdapter(model: CausalLM, config: TrainConfig, ignoreMismatchedBase: boolean): Promise<PeftModel<CausalLM>> {
  if (config.adapterNameOrPath !== null)
    return PeftModel.fromPretrained(model, config.adapterNameOrPath, { isTrainable: true, ignoreMismatchedBase });
  return getPeftModel(model, loraConfigOf(config), { seed: config.seed });
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
