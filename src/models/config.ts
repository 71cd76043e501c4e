/** What a decoder-only language model is made of, read from config.json of transformers 4 or 5. */
import type { Activation } from "../ops/glu.js";
import type { ConfigReader } from "./config-reader.js";
import { type RopeParameters, readRopeParameters } from "./rope.js";

/** bitsandbytes' 4-bit storage, as `quantization_config` of config.json tells it. Block sizes stand in each tensor's quant_state. */
export interface QuantizationConfig {
  quantType: "nf4" | "fp4";
  doubleQuant: boolean;
}

/** What may differ from layer to layer. */
export interface LayerConfig {
  /** A token sees this many tokens, itself included; absent: all before it. */
  window: number | undefined;
  /** Index in `ropes`; absent: positions are not rotated in. */
  rope: number | undefined;
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
  /** Norms multiply with 1 + weight. */
  normUnitOffset: boolean;
  activation: Activation;
  layers: readonly LayerConfig[];
  ropes: readonly RopeParameters[];
  /** Scores are softcap(scale · q·k), softcap(s) = c · tanh(s / c); no softcap: left as they are. */
  attention: { scale: number; softcap: number | undefined };
  /** What embeddings are multiplied with, in float32 and in bfloat16 math. */
  embeddingScale: { float32: number; bfloat16: number };
  /** What noise on the embeddings (NEFTune) is multiplied with: 1 where it comes after their own factor. */
  embeddingNoiseScale: number;
  /** What attention and MLP are multiplied with before they are added to the stream. */
  residualScale: number;
  /** Logits are softcap(scale · hidden · Wᵀ). */
  logits: { scale: number; softcap: number | undefined };
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

/** What a family tells {@link readDecoderConfig}. */
export interface FamilyKeys {
  architecture: string;
  /** Default: no linear has one. */
  bias?: DecoderConfig["bias"];
  /** Default `hidden_act`. */
  activationKey?: string;
  /** Of {@link OFTEN_ELSEWHERE}, the keys that this family computes. */
  computes?: readonly string[];
  /** Default: one for all layers, of `rope_parameters` or its form in transformers 4. */
  ropes?: (headDim: number, maxPositions: number) => RopeParameters[];
}

/** Keys that change the arithmetic of some families, and the values that change nothing. Whoever does not compute them refuses them by name. */
const OFTEN_ELSEWHERE: Readonly<Record<string, readonly unknown[]>> = {
  rope_interleaved: [false],
  attention_dropout: [0],
  use_qk_norm: [false],
  use_bidirectional_attention: [false],
  attn_logit_softcapping: [],
  final_logit_softcapping: [],
  lm_head_bias: [false],
  num_experts: [],
  num_local_experts: [],
  embedding_multiplier: [1],
  residual_multiplier: [1],
  attention_multiplier: [],
  logits_scaling: [1],
  logit_scale: [1],
  no_rope_layers: [],
};

const ACTIVATIONS: Readonly<Record<string, Activation>> = {
  silu: "silu",
  swish: "silu",
  gelu_pytorch_tanh: "gelu_tanh",
  gelu_new: "gelu_tanh",
};

/**
 * Reads the keys that families share, as a plain pre-norm decoder. The family replaces what is different in it, adds its own checks, then
 * calls `config.finish`.
 */
export function readDecoderConfig(config: ConfigReader, keys: FamilyKeys): DecoderConfig {
  const { architecture, bias = { qkv: false, o: false, mlp: false }, activationKey = "hidden_act", computes = [] } = keys;
  const hiddenSize = config.size("hidden_size", undefined, 2 ** 20);
  const numHeads = config.size("num_attention_heads", undefined, 2 ** 16);
  const numKvHeads = config.size("num_key_value_heads", numHeads);
  const headDim = config.size("head_dim", Math.max(1, Math.trunc(hiddenSize / numHeads)), 2 ** 16);
  const maxPositions = config.size("max_position_embeddings", 2048, 2 ** 31 - 1);
  const numLayers = config.size("num_hidden_layers", undefined, 4096);
  if (numHeads % numKvHeads !== 0)
    config.invalid("num_attention_heads", `(${numHeads}) must be a multiple of num_key_value_heads (${numKvHeads})`);
  if (!computes.includes("layer_types")) {
    const types = config.value("layer_types");
    if (Array.isArray(types) && types.some((type) => type !== "full_attention"))
      config.unsupported("layer_types", "layers that are not full_attention");
  }
  config.accept(activationKey, Object.keys(ACTIVATIONS));
  for (const [key, neutral] of Object.entries(OFTEN_ELSEWHERE)) if (!computes.includes(key)) config.accept(key, neutral);
  const ropes = keys.ropes?.(headDim, maxPositions) ?? [readRopeParameters(config, headDim, maxPositions)];
  // What a dynamic rope stretches is max_position_embeddings itself; others have it in there already.
  const stretched = ropes.map(({ type, factor }) => (type === "dynamic" ? Math.floor(maxPositions * factor) : maxPositions));
  return {
    modelType: config.string("model_type"),
    architecture,
    vocabSize: config.size("vocab_size"),
    hiddenSize,
    intermediateSize: config.size("intermediate_size"),
    numLayers,
    numHeads,
    numKvHeads,
    headDim,
    maxPositions: Math.max(...stretched),
    rmsNormEps: config.positive("rms_norm_eps", 1e-6),
    normUnitOffset: false,
    activation: ACTIVATIONS[String(config.value(activationKey) ?? "silu")] ?? "silu",
    layers: uniformLayers(numLayers, undefined),
    ropes,
    attention: { scale: 1 / Math.sqrt(headDim), softcap: undefined },
    embeddingScale: { float32: 1, bfloat16: 1 },
    embeddingNoiseScale: 1,
    residualScale: 1,
    logits: { scale: 1, softcap: undefined },
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

/** `attention_bias` on q, k, v and o, `mlp_bias` on the MLP, as most families that have them. */
export function readBiases(config: ConfigReader): DecoderConfig["bias"] {
  const attention = config.boolean("attention_bias", false);
  return { qkv: attention, o: attention, mlp: config.boolean("mlp_bias", false) };
}

/** `attention_bias` on q, k, v and o, and none on the MLP. */
export function readAttentionBias(config: ConfigReader): DecoderConfig["bias"] {
  config.accept("mlp_bias", [false]);
  const attention = config.boolean("attention_bias", false);
  return { qkv: attention, o: attention, mlp: false };
}

/** All layers alike, with the first rope. */
export function uniformLayers(count: number, window: number | undefined): LayerConfig[] {
  return Array.from({ length: count }, () => ({ window, rope: 0 }));
}

type LayerType = "full_attention" | "sliding_attention";

/**
 * The layers, with the first rope: what `layer_types` says, or where that is absent `implied`.
 * @param window of the sliding layers; without it there must be none.
 */
export function readLayers(
  config: ConfigReader,
  count: number,
  window: number | undefined,
  implied: (layer: number) => LayerType,
): LayerConfig[] {
  const given = config.value("layer_types");
  let types = Array.from({ length: count }, (_, i) => implied(i));
  if (Array.isArray(given)) {
    const other = given.filter((type) => type !== "full_attention" && type !== "sliding_attention");
    if (other.length > 0) config.unsupported("layer_types", "layers that are neither full_attention nor sliding_attention");
    else if (given.length !== count) config.invalid("layer_types", `must name ${count} layers, not ${given.length}`);
    else types = given as LayerType[];
  } else if (given !== undefined) config.invalid("layer_types", "must be a list");
  if (window === undefined && types.includes("sliding_attention"))
    config.invalid("sliding_window", "is missing, and layer_types has layers of sliding_attention");
  return types.map((type) => ({ window: type === "sliding_attention" ? window : undefined, rope: 0 }));
}

/** A positive number, or nothing where the key is absent or null. */
export function optionalPositive(config: ConfigReader, key: string): number | undefined {
  return config.has(key) ? config.positive(key) : undefined;
}

/** `sliding_window` in tokens, or nothing where it is null. */
export function readWindow(config: ConfigReader): number | undefined {
  return config.has("sliding_window") ? config.size("sliding_window", undefined, 2 ** 31 - 1) : undefined;
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
