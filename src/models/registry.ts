/** `AutoModelForCausalLM`: from a folder, a Hub id or a config to a model, by `model_type`. */
import { LowrankError } from "../errors.js";
import { readGenerationConfig } from "../generate/options.js";
import { Keys, noteUnread, type OnNote } from "../notes.js";
import { type Device, getDevice } from "../tensor/device.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { CausalLM } from "./causal-lm.js";
import type { DecoderConfig } from "./config.js";
import { ConfigReader } from "./config-reader.js";
import type { ModelFamily } from "./family.js";
import { initialWeights } from "./from-config.js";
import { construct, type FromPretrainedOptions, loadPretrained, type MathDType, usesBf16 } from "./from-pretrained.js";
import { gemma2 } from "./gemma2/model.js";
import { gemma3Text } from "./gemma3_text/model.js";
import { granite } from "./granite/model.js";
import { llama } from "./llama/model.js";
import { mistral } from "./mistral/model.js";
import { olmo2 } from "./olmo2/model.js";
import { phi3 } from "./phi3/model.js";
import { qwen2 } from "./qwen2/model.js";
import { qwen3 } from "./qwen3/model.js";
import { smollm3 } from "./smollm3/model.js";

const FAMILIES: Readonly<Record<string, ModelFamily>> = {
  gemma2,
  gemma3_text: gemma3Text,
  granite,
  llama,
  mistral,
  olmo2,
  phi3,
  qwen2,
  qwen3,
  smollm3,
};

/** What to do about a `model_type` that holds more than a language model. */
const REMEDIES: Readonly<Record<string, string>> = {
  gemma3:
    "This checkpoint reads images too. Save its text model alone, in Python with transformers: m = Gemma3ForConditionalGeneration.from_pretrained(ID); t = Gemma3ForCausalLM(m.config.get_text_config()); t.model.load_state_dict(m.model.language_model.state_dict()); t.save_pretrained(FOLDER). Loading ID as Gemma3ForCausalLM would leave the weights random.",
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
        hint: REMEDIES[String(type)] ?? "Choose a model of one of these families.",
        details: { modelType: type, supported: supportedModelTypes() },
      },
    );
  }
  const reader = new ConfigReader({ ...family.defaults, ...json });
  const config = { ...family.readConfig(reader), json };
  const given = ([key]: readonly [string, unknown]) => Object.hasOwn(json, key.split(".")[0]!);
  return { family, config, unread: reader.unread().filter(given) };
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
