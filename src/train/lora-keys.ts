import { isDeepStrictEqual } from "node:util";
import { LowrankError } from "../errors.js";
import type { Json } from "../io/json.js";
import { LoraConfig } from "../peft/config.js";
import { FIELDS, type LoraConfigFields } from "../peft/config-fields.js";
import { takesFromBase } from "../peft/start.js";
import { fileName, flag, integer, type Key, key, list, number, orNull } from "./key.js";

/** Fields of PEFT's LoraConfig that LLaMA-Factory has no keys for: a training configuration takes them under PEFT's names. */
const PEFT_FIELDS = [
  "initLoraWeights",
  "excludeModules",
  "rankPattern",
  "alphaPattern",
  "layersToTransform",
  "layersPattern",
  "bias",
  "loraBias",
  "trainableTokenIndices",
  "ensureWeightTying",
] as const satisfies readonly (keyof LoraConfigFields)[];

/** The part of a training configuration that says what adapter a run trains. */
export interface LoraKeys extends Pick<LoraConfigFields, (typeof PEFT_FIELDS)[number]> {
  loraRank: number;
  loraAlpha: number;
  loraDropout: number;
  /** Module names or suffixes, or ["all"] for every linear but the output head. */
  loraTarget: string[];
  /** Modules that are trained and saved whole: PEFT's modules_to_save. */
  additionalTarget: string[] | null;
  useRslora: boolean;
  useDora: boolean;
  pissaInit: boolean;
  /** Subspace iterations of the fast start; -1: the exact singular value decomposition. */
  pissaIter: number;
  /** Save an adapter that started from the base's weights as plain LoRA of twice the rank. */
  pissaConvert: boolean;
  /** LoRA+: learning rate of lora_B in units of learningRate; null: all parameters learn alike. */
  loraplusLrRatio: number | null;
  /** LoRA+: learning rate of LoRA on embeddings. */
  loraplusLrEmbedding: number;
}

function peftKey(name: (typeof PEFT_FIELDS)[number]): Key {
  const { default: value, check } = FIELDS[name];
  return key(value, check(undefined)!, (given) => (check(given) === undefined ? given : undefined));
}

export const LORA_KEYS: Record<keyof LoraKeys, Key> = {
  loraRank: integer(8, 1),
  loraAlpha: orNull(number(null, 0)),
  loraDropout: number(0, 0, 1),
  loraTarget: list(["all"]),
  additionalTarget: orNull(list(null)),
  useRslora: flag(),
  useDora: flag(),
  pissaInit: flag(),
  pissaIter: key(16, "an integer from 0 on, or -1", (v) => (Number.isSafeInteger(v) && (v as number) >= -1 ? v : undefined)),
  pissaConvert: flag(),
  ...(Object.fromEntries(PEFT_FIELDS.map((name) => [name, peftKey(name)])) as Record<(typeof PEFT_FIELDS)[number], Key>),
  loraplusLrRatio: orNull(number(null, 0, Number.MAX_VALUE, true)),
  loraplusLrEmbedding: number(1e-6, 0),
};

/** The adapter that a configuration asks for. Throws INVALID_CONFIG with every rule between its fields that is broken. */
export function loraConfigOf(config: LoraKeys): LoraConfig {
  const { loraTarget, pissaInit, pissaIter } = config;
  return new LoraConfig({
    ...Object.fromEntries(PEFT_FIELDS.map((name) => [name, config[name]])),
    taskType: "CAUSAL_LM",
    r: config.loraRank,
    loraAlpha: config.loraAlpha,
    loraDropout: config.loraDropout,
    useRslora: config.useRslora,
    useDora: config.useDora,
    targetModules: loraTarget.length === 1 && loraTarget[0] === "all" ? "all-linear" : loraTarget,
    modulesToSave: config.additionalTarget,
    ...(pissaInit && { initLoraWeights: pissaIter === -1 ? "pissa" : `pissa_niter_${pissaIter}` }),
  });
}

/** Keys that are those of an adapter which training goes on with, by the field of PEFT's that they fill. Sizes and targets may be left standing. */
const OF_ADAPTER = {
  useRslora: "useRslora",
  useDora: "useDora",
  additionalTarget: "modulesToSave",
  bias: "bias",
  loraBias: "loraBias",
  trainableTokenIndices: "trainableTokenIndices",
  ensureWeightTying: "ensureWeightTying",
} as const satisfies Partial<Record<keyof LoraKeys, keyof LoraConfigFields>>;
const ONLY_LORA = [
  ...(Object.keys(OF_ADAPTER) as (keyof typeof OF_ADAPTER)[]),
  ...PEFT_FIELDS,
  "pissaInit",
  "pissaConvert",
  "loraplusLrRatio",
] as const satisfies readonly (keyof LoraKeys)[];

/** Those of the keys that ask for something. */
const asked = <K extends keyof LoraKeys>(config: LoraKeys, names: readonly K[]) =>
  [...new Set(names)].filter((name) => !isDeepStrictEqual(config[name], LORA_KEYS[name].default));

/** What of a configuration's LoRA contradicts itself or the rest of it. */
export function loraProblems(
  config: LoraKeys & {
    finetuningType: string;
    quantizationBit: number | null;
    adapterNameOrPath: string | null;
    learningRate: number;
  },
): string[] {
  const namesOf = (keys: readonly string[]) => keys.map(fileName).join(", ");
  if (config.finetuningType !== "lora") {
    const keys = [...(config.adapterNameOrPath === null ? [] : ["adapterNameOrPath"]), ...asked(config, ONLY_LORA)];
    return keys.length === 0 ? [] : [`${namesOf(keys)}: with finetuning_type: lora only`];
  }
  const problems: string[] = [];
  const begins = asked(config, ["pissaInit", "initLoraWeights"]);
  if (begins.length === 2) problems.push("pissa_init and init_lora_weights exclude each other");
  if (begins.length > 0 && config.adapterNameOrPath !== null)
    problems.push(`${namesOf(begins)}: for a new adapter, and adapter_name_or_path goes on with one`);
  if (config.loraplusLrRatio !== null && config.learningRate === 0)
    problems.push("loraplus_lr_ratio needs a learning_rate above 0");
  try {
    const lora = loraConfigOf(config);
    lora.assertRunnable(true);
    if (takesFromBase(lora) && config.quantizationBit !== null)
      problems.push(`${namesOf(begins)}: needs the base's weights before they are quantised, without quantization_bit`);
  } catch (error) {
    if (!(error instanceof LowrankError) || !Array.isArray(error.details.problems)) throw error;
    problems.push(...error.details.problems);
  }
  return problems;
}

/** Throws INVALID_CONFIG where a configuration asks for what the adapter that it goes on with is not. */
export function assertAsked(config: LoraKeys, adapter: LoraConfig): void {
  const form = (value: Json) => (Array.isArray(value) ? [...value].sort() : value);
  const problems = asked(config, Object.keys(OF_ADAPTER) as (keyof typeof OF_ADAPTER)[]).flatMap((name) => {
    const has = adapter[OF_ADAPTER[name]];
    if (isDeepStrictEqual(form(config[name]), form(has))) return [];
    return [`${fileName(name)}: ${JSON.stringify(config[name])}, but the adapter has ${JSON.stringify(has)}`];
  });
  if (problems.length === 0) return;
  throw new LowrankError("INVALID_CONFIG", `The adapter of adapter_name_or_path is another:\n- ${problems.join("\n- ")}`, {
    hint: "Leave these keys out to go on with it as it is, or leave adapter_name_or_path out for a new one.",
    details: { problems },
  });
}
