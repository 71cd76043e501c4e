/** What a decoder-only language model of the Llama kind is made of, read from config.json of transformers 4 or 5. */
import type { ConfigReader } from "./config-reader.js";
import { type RopeParameters, readRopeParameters } from "./rope.js";

/** bitsandbytes' 4-bit storage, as `quantization_config` of config.json tells it. Block sizes stand in each tensor's quant_state. */
export interface QuantizationConfig {
  quantType: "nf4" | "fp4";
  doubleQuant: boolean;
}

export interface DecoderConfig {
  modelType: string;
  architecture: string;
  vocabSize: number;
  hiddenSize: number;
  intermediateSize: number;
  numLayers: number;
  numHeads: number;
  numKvHeads: number;
  headDim: number;
  maxPositions: number;
  rmsNormEps: number;
  rope: RopeParameters;
  tieWordEmbeddings: boolean;
  /** Which linears carry a bias. */
  bias: { qkv: boolean; o: boolean; mlp: boolean };
  /** Standard deviation of fresh weights. */
  initializerRange: number;
  bosTokenId: number | undefined;
  eosTokenIds: readonly number[];
  padTokenId: number | undefined;
  quantization: QuantizationConfig | undefined;
  /** The file's own content: what is saved again, so that no key is lost. */
  json: Readonly<Record<string, unknown>>;
}

/**
 * Reads the keys that the Llama-like families share. The family adds its biases and checks, then calls `config.finish`.
 * Keys that change the arithmetic in ways this version does not know are refused by name.
 */
export function readDecoderConfig(config: ConfigReader, architecture: string, bias: DecoderConfig["bias"]): DecoderConfig {
  const hiddenSize = config.size("hidden_size", undefined, 2 ** 20);
  const numHeads = config.size("num_attention_heads", undefined, 2 ** 16);
  const numKvHeads = config.size("num_key_value_heads", numHeads);
  const headDim = config.size("head_dim", Math.max(1, Math.trunc(hiddenSize / numHeads)), 2 ** 16);
  const maxPositions = config.size("max_position_embeddings", 2048, 2 ** 31 - 1);
  if (numHeads % numKvHeads !== 0)
    config.invalid("num_attention_heads", `(${numHeads}) must be a multiple of num_key_value_heads (${numKvHeads})`);
  config.accept("hidden_act", ["silu", "swish"]);
  config.accept("rope_interleaved", [false]);
  config.accept("attention_dropout", [0]);
  config.accept("use_qk_norm", [false]);
  config.accept("use_bidirectional_attention", [false]);
  for (const key of ["attn_logit_softcapping", "final_logit_softcapping", "num_experts", "num_local_experts"])
    config.accept(key, []);
  for (const key of ["embedding_multiplier", "residual_multiplier", "logits_scaling", "logit_scale"]) config.accept(key, [1]);
  const layerTypes = config.value("layer_types");
  if (Array.isArray(layerTypes) && layerTypes.some((type) => type !== "full_attention")) {
    config.unsupported("layer_types", "layers that are not full_attention");
  }
  return {
    modelType: config.string("model_type"),
    architecture,
    vocabSize: config.size("vocab_size"),
    hiddenSize,
    intermediateSize: config.size("intermediate_size"),
    numLayers: config.size("num_hidden_layers", undefined, 4096),
    numHeads,
    numKvHeads,
    headDim,
    maxPositions,
    rmsNormEps: config.positive("rms_norm_eps", 1e-6),
    rope: readRopeParameters(config, headDim, maxPositions),
    tieWordEmbeddings: config.boolean("tie_word_embeddings", false),
    bias,
    initializerRange: config.number("initializer_range", 0.02),
    bosTokenId: config.tokenIds("bos_token_id")[0],
    eosTokenIds: config.tokenIds("eos_token_id"),
    padTokenId: config.tokenIds("pad_token_id")[0],
    quantization: readQuantization(config),
    json: config.json,
  };
}

function readQuantization(config: ConfigReader): QuantizationConfig | undefined {
  if (!config.has("quantization_config")) return undefined;
  const quantization = config.object("quantization_config");
  const method = quantization.string("quant_method", "bitsandbytes");
  if (method !== "bitsandbytes") {
    config.unsupported("quantization_config.quant_method", `"${method}" (supported: "bitsandbytes" in 4 bits)`);
    return undefined;
  }
  quantization.accept("load_in_8bit", [false]);
  quantization.accept("bnb_4bit_quant_type", ["nf4", "fp4"]);
  quantization.accept("bnb_4bit_quant_storage", ["uint8", "float16", "bfloat16", "float32"]);
  const asked = [quantization.boolean("load_in_4bit", false), quantization.boolean("_load_in_4bit", false)];
  if (!asked.includes(true)) return undefined;
  return {
    quantType: quantization.string("bnb_4bit_quant_type", "fp4") === "nf4" ? "nf4" : "fp4",
    doubleQuant: quantization.boolean("bnb_4bit_use_double_quant", false),
  };
}
