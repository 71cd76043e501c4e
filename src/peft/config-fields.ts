import type { Json } from "../io/json.js";

/** How LoRA matrices begin. Only true, false and "gaussian" are computed here; the others are known names of PEFT. */
export type InitLoraWeights = boolean | string;

/** Every field of PEFT's LoraConfig, in camelCase. */
export interface LoraConfigFields {
  taskType: string | null;
  r: number;
  loraAlpha: number;
  loraDropout: number;
  /** Names or suffixes of modules, a Python regular expression for whole names, "all-linear", or null for the model's default. */
  targetModules: string[] | string | null;
  excludeModules: string[] | string | null;
  modulesToSave: string[] | null;
  bias: "none" | "all" | "lora_only";
  useRslora: boolean;
  fanInFanOut: boolean;
  initLoraWeights: InitLoraWeights;
  /** Pattern to rank or alpha: the first pattern in order that matches a module's name wins. */
  rankPattern: Record<string, number>;
  alphaPattern: Record<string, number>;
  layersToTransform: number | number[] | null;
  layersPattern: string | string[] | null;
  baseModelNameOrPath: string | null;
  revision: string | null;
  inferenceMode: boolean;
  autoMapping: Json;
  peftVersion: string | null;
  trainableTokenIndices: number[] | Record<string, number[]> | null;
  ensureWeightTying: boolean;
  loraBias: boolean;
  targetParameters: string[] | null;
  useDora: boolean;
  layerReplication: [number, number][] | null;
  loftqConfig: Json;
  evaConfig: Json;
  cordaConfig: Json;
  loraGaConfig: Json;
  aloraInvocationTokens: number[] | null;
  useQalora: boolean;
  qaloraGroupSize: number;
  veloraConfig: Json;
  montecloraConfig: Json;
  kasaConfig: Json;
  arrowConfig: Json;
  useBdlora: Json;
  megatronConfig: Json;
  megatronCore: string | null;
}

type Check = (value: unknown) => string | undefined; // what was expected, when the value is not that

export interface Field {
  /** Name in adapter_config.json. */
  file: string;
  default: Json;
  /** Written even when it holds the default, because PEFT 0.6 wrote it too. */
  always?: true;
  check: Check;
}

const must =
  (expected: string, holds: (value: unknown) => boolean): Check =>
  (value) =>
    holds(value) ? undefined : expected;
const isInteger = (value: unknown) => Number.isSafeInteger(value);
const isNumber = (value: unknown) => typeof value === "number" && Number.isFinite(value);
const isText = (value: unknown) => typeof value === "string";
const isTexts = (value: unknown) => Array.isArray(value) && value.every(isText);
const isIntegers = (value: unknown) => Array.isArray(value) && value.every(isInteger);
const isRecord = (holds: (value: unknown) => boolean) => (value: unknown) =>
  value !== null && typeof value === "object" && !Array.isArray(value) && Object.values(value).every(holds);

const bool = must("true or false", (v) => typeof v === "boolean");
const text = must("text or null", (v) => v === null || isText(v));
const names = must("a list of names or null", (v) => v === null || isTexts(v));
const nameOrNames = must("a list of names, text or null", (v) => v === null || isText(v) || isTexts(v));
const integers = must("an integer, a list of integers or null", (v) => v === null || isInteger(v) || isIntegers(v));
const anything: Check = () => undefined;
const positiveRank = (value: unknown) => isInteger(value) && (value as number) > 0;

/** The table that reading, writing and checking share. */
export const FIELDS: Record<keyof LoraConfigFields, Field> = {
  taskType: { file: "task_type", default: null, always: true, check: text },
  r: { file: "r", default: 8, always: true, check: must("an integer above 0", positiveRank) },
  loraAlpha: { file: "lora_alpha", default: 8, always: true, check: must("a finite number", isNumber) },
  loraDropout: {
    file: "lora_dropout",
    default: 0,
    always: true,
    check: must("a number from 0 to 1", (v) => isNumber(v) && (v as number) >= 0 && (v as number) <= 1),
  },
  targetModules: { file: "target_modules", default: null, always: true, check: nameOrNames },
  excludeModules: { file: "exclude_modules", default: null, check: nameOrNames },
  modulesToSave: { file: "modules_to_save", default: null, always: true, check: names },
  bias: {
    file: "bias",
    default: "none",
    always: true,
    check: must('"none", "all" or "lora_only"', (v) => v === "none" || v === "all" || v === "lora_only"),
  },
  useRslora: { file: "use_rslora", default: false, check: bool },
  fanInFanOut: { file: "fan_in_fan_out", default: false, always: true, check: bool },
  initLoraWeights: {
    file: "init_lora_weights",
    default: true,
    always: true,
    check: must(
      'true, false, "gaussian", "pissa", "pissa_niter_N", "olora", "orthogonal", "eva", "corda", "loftq", "lora_ga" or "mica"',
      (v) =>
        typeof v === "boolean" ||
        (isText(v) && /^(gaussian|pissa|pissa_niter_\d+|olora|orthogonal|eva|corda|loftq|lora_ga|mica)$/i.test(v as string)),
    ),
  },
  rankPattern: {
    file: "rank_pattern",
    default: {},
    always: true,
    check: must("patterns with integers above 0", isRecord(positiveRank)),
  },
  alphaPattern: {
    file: "alpha_pattern",
    default: {},
    always: true,
    check: must("patterns with finite numbers", isRecord(isNumber)),
  },
  layersToTransform: { file: "layers_to_transform", default: null, always: true, check: integers },
  layersPattern: { file: "layers_pattern", default: null, always: true, check: nameOrNames },
  baseModelNameOrPath: { file: "base_model_name_or_path", default: null, always: true, check: text },
  revision: { file: "revision", default: null, always: true, check: text },
  inferenceMode: { file: "inference_mode", default: false, always: true, check: bool },
  autoMapping: { file: "auto_mapping", default: null, always: true, check: anything },
  peftVersion: { file: "peft_version", default: null, check: text },
  trainableTokenIndices: {
    file: "trainable_token_indices",
    default: null,
    check: must(
      "token ids from 0 on (a list, or lists by module) or null",
      (v) => v === null || isTokenIds(v) || isRecord(isTokenIds)(v),
    ),
  },
  ensureWeightTying: { file: "ensure_weight_tying", default: false, check: bool },
  loraBias: { file: "lora_bias", default: false, check: bool },
  targetParameters: { file: "target_parameters", default: null, check: names },
  useDora: { file: "use_dora", default: false, check: bool },
  layerReplication: { file: "layer_replication", default: null, check: anything },
  loftqConfig: { file: "loftq_config", default: {}, check: anything },
  evaConfig: { file: "eva_config", default: null, check: anything },
  cordaConfig: { file: "corda_config", default: null, check: anything },
  loraGaConfig: { file: "lora_ga_config", default: null, check: anything },
  aloraInvocationTokens: {
    file: "alora_invocation_tokens",
    default: null,
    check: must("token ids or null", (v) => v === null || isTokenIds(v)),
  },
  useQalora: { file: "use_qalora", default: false, check: bool },
  qaloraGroupSize: { file: "qalora_group_size", default: 16, check: must("an integer above 0", positiveRank) },
  veloraConfig: { file: "velora_config", default: null, check: anything },
  montecloraConfig: { file: "monteclora_config", default: null, check: anything },
  kasaConfig: { file: "kasa_config", default: null, check: anything },
  arrowConfig: { file: "arrow_config", default: null, check: anything },
  useBdlora: { file: "use_bdlora", default: null, check: anything },
  megatronConfig: { file: "megatron_config", default: null, check: anything },
  megatronCore: { file: "megatron_core", default: "megatron.core", check: text },
};

function isTokenIds(value: unknown): boolean {
  return isIntegers(value) && (value as number[]).every((id) => id >= 0);
}
