/** `AutoModelForCausalLM`: from a folder, a Hub id or a config to a model, by `model_type`. */
import { LowrankError } from "../errors.js";
import { readGenerationConfig } from "../generate/options.js";
import { Keys, noteUnread, type OnNote } from "../notes.js";
import { type Device, getDevice } from "../tensor/device.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { CausalLM, ModelParts } from "./causal-lm.js";
import type { DecoderConfig } from "./config.js";
import { ConfigReader } from "./config-reader.js";
import { initialWeights } from "./from-config.js";
import { construct, type FromPretrainedOptions, loadPretrained, type MathDType, usesBf16 } from "./from-pretrained.js";
import type { WeightLayout } from "./layout.js";
import { readLlamaConfig } from "./llama/config.js";
import { LlamaForCausalLM } from "./llama/model.js";
import { llamaWeights } from "./llama/weights.js";
import { readQwen2Config } from "./qwen2/config.js";
import { Qwen2ForCausalLM } from "./qwen2/model.js";
import { qwen2Weights } from "./qwen2/weights.js";

/** What a family gives the registry. */
export interface ModelFamily {
  readConfig(config: ConfigReader): DecoderConfig;
  model: new (parts: ModelParts) => CausalLM;
  weights: WeightLayout;
}

const FAMILIES: Readonly<Record<string, ModelFamily>> = {
  llama: { readConfig: readLlamaConfig, model: LlamaForCausalLM, weights: llamaWeights },
  qwen2: { readConfig: readQwen2Config, model: Qwen2ForCausalLM, weights: qwen2Weights },
};

/** Values of `model_type` that can be loaded. */
export function supportedModelTypes(): string[] {
  return Object.keys(FAMILIES);
}

export interface ResolvedConfig {
  family: ModelFamily;
  config: DecoderConfig;
  /** Keys that the family did not read, with their values: {@link noteUnread}. */
  unread: [key: string, value: unknown][];
}

/** The family and the checked config of a config.json. @throws LowrankError UNSUPPORTED or INVALID_FILE, naming every key at fault. */
export function resolveConfig(json: Readonly<Record<string, unknown>>): ResolvedConfig {
  const type = json.model_type;
  const family = typeof type === "string" && Object.hasOwn(FAMILIES, type) ? FAMILIES[type] : undefined;
  if (!family) {
    throw new LowrankError(
      "UNSUPPORTED",
      `config.json: model_type ${JSON.stringify(type)?.slice(0, 100)} is not supported: this version runs ${supportedModelTypes().join(", ")}`,
      {
        hint: "Choose a model of one of these families.",
        details: { modelType: type, supported: supportedModelTypes() },
      },
    );
  }
  const reader = new ConfigReader({ ...json });
  return { family, config: family.readConfig(reader), unread: reader.unread() };
}

export interface FromConfigOptions {
  device?: string | Device;
  dtype?: MathDType;
  /** Default 0. */
  seed?: number;
  /** Default: the config's initializer_range. */
  initializerRange?: number;
  tokenizer?: Tokenizer;
  onNote?: OnNote;
}

/** Causal language models by `model_type`. The caller owns the model: `dispose()` frees it. */
export const AutoModelForCausalLM = {
  /**
   * Loads a model from a folder, from the Hub by id (through the cache shared with Python), or the embedded `lowrank/tiny`.
   * @throws LowrankError UNSUPPORTED (family or option this version does not compute), INVALID_FILE, NOT_FOUND, HUB, OUT_OF_MEMORY
   */
  fromPretrained: (idOrPath: string, options: FromPretrainedOptions = {}): Promise<CausalLM> => loadPretrained(idOrPath, options),

  /** A model with fresh weights in float32. @param json the content of a config.json. */
  fromConfig(json: Readonly<Record<string, unknown>>, options: FromConfigOptions = {}): CausalLM {
    const { family, config: read, unread } = resolveConfig(json);
    noteUnread("config.json", undefined, unread, options.onNote);
    const config = { ...read, initializerRange: options.initializerRange ?? read.initializerRange };
    const device = typeof options.device === "object" ? options.device : getDevice(options.device ?? "cpu");
    return construct(family.model, {
      config,
      weights: initialWeights(config, family.weights.tensors(config), device, options.seed ?? 0),
      device,
      bf16: usesBf16(options.dtype ?? "auto", device),
      generationConfig: readGenerationConfig(new Keys({}), config.eosTokenIds),
      nameOrPath: "",
      tokenizer: () => Promise.resolve(options.tokenizer),
    });
  },
};
