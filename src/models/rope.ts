/** Rotary position embeddings: which forms a config asks for, and their inverse frequencies as transformers computes them. */
import type { ConfigReader } from "./config-reader.js";

/** Rotary parameters of a model, in one form for the keys of transformers 4 and 5. */
export interface RopeParameters {
  type: "default" | "linear" | "llama3" | "yarn";
  theta: number;
  /** Dimensions of a head that rotate: head_dim times partial_rotary_factor. */
  rotaryDims: number;
  /** linear, llama3, yarn: how many times the context is stretched. */
  factor: number;
  /** llama3, yarn: positions the model was pretrained on. */
  originalMaxPositions: number;
  /** llama3. */
  lowFreqFactor: number;
  highFreqFactor: number;
  /** yarn. */
  betaFast: number;
  betaSlow: number;
  truncate: boolean;
  /** What cosines and sines are multiplied with; 1 except for yarn. */
  attentionScaling: number;
}

const TYPES = ["default", "linear", "llama3", "yarn"] as const;

/**
 * Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4). Problems go to the reader.
 * @param headDim dimensions of one attention head.
 */
export function readRopeParameters(config: ConfigReader, headDim: number, maxPositions: number): RopeParameters {
  const key = config.has("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const rope = config.object(key);
  const type = rope.string("rope_type", rope.string("type", "default"));
  const partial = rope.has("partial_rotary_factor")
    ? rope.number("partial_rotary_factor", 1)
    : config.number("partial_rotary_factor", 1);
  const parameters: RopeParameters = {
    type: "default",
    theta: rope.has("rope_theta") ? rope.positive("rope_theta", 10000) : config.positive("rope_theta", 10000),
    rotaryDims: Math.trunc(headDim * partial),
    factor: 1,
    originalMaxPositions: maxPositions,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
    attentionScaling: 1,
  };
  if (!(TYPES as readonly string[]).includes(type)) {
    if (rope.has("full_attention") || rope.has("sliding_attention")) config.unsupported(key, "one rope per layer type");
    else config.unsupported(`${key}.rope_type`, `"${type}" (supported: ${TYPES.join(", ")})`);
    return parameters;
  }
  parameters.type = type as RopeParameters["type"];
  if (rope.has("full_attention")) config.unsupported(key, "one rope per layer type");
  if (parameters.rotaryDims % 2 !== 0 || parameters.rotaryDims < 2)
    config.invalid("head_dim", `gives ${parameters.rotaryDims} rotary dimensions; it must be even`);
  if (type === "default") return parameters;

  const original = rope.has("original_max_position_embeddings") ? rope : config;
  parameters.originalMaxPositions = original.positive("original_max_position_embeddings", maxPositions);
  parameters.factor =
    type === "yarn" ? rope.positive("factor", maxPositions / parameters.originalMaxPositions) : rope.positive("factor");
  if (type === "llama3") {
    parameters.lowFreqFactor = rope.positive("low_freq_factor");
    parameters.highFreqFactor = rope.positive("high_freq_factor");
  }
  if (type === "yarn") {
    parameters.betaFast = rope.number("beta_fast", 32) || 32;
    parameters.betaSlow = rope.number("beta_slow", 1) || 1;
    parameters.truncate = rope.boolean("truncate", true);
    parameters.attentionScaling = yarnScaling(parameters.factor, rope);
  }
  return parameters;
}

function yarnScaling(factor: number, rope: ConfigReader): number {
  if (rope.has("attention_factor")) return rope.number("attention_factor", 1);
  const scale = (mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const mscale = rope.number("mscale", 0);
  const allDim = rope.number("mscale_all_dim", 0);
  return mscale && allDim ? scale(mscale) / scale(allDim) : scale(1);
}

const f = Math.fround;

/**
 * Inverse frequencies, float32 [rotaryDims / 2], each step rounded to float32 as in transformers' modeling_rope_utils.
 * Sources: Su et al. 2021 (default), Chen et al. 2023 (linear), Llama 3.1 (llama3), Peng et al. 2023 (yarn).
 */
export function inverseFrequencies(rope: RopeParameters): Float32Array {
  const half = rope.rotaryDims / 2;
  const posFreq = Float32Array.from({ length: half }, (_, i) => rope.theta ** f((2 * i) / rope.rotaryDims));
  const base = posFreq.map((p) => 1 / p);
  if (rope.type === "linear") return base.map((x) => x / rope.factor);
  if (rope.type === "llama3") return base.map((x) => llama3Frequency(x, rope));
  if (rope.type === "yarn") return yarnFrequencies(posFreq, rope);
  return base;
}

/** Long wavelengths are divided by the factor, short ones kept, those between blended. */
function llama3Frequency(frequency: number, rope: RopeParameters): number {
  const context = rope.originalMaxPositions;
  const wavelength = f((2 * Math.PI) / frequency);
  if (wavelength > context / rope.lowFreqFactor) return f(frequency / rope.factor);
  if (wavelength < context / rope.highFreqFactor) return frequency;
  const smooth = f(f(f(context / wavelength) - rope.lowFreqFactor) / (rope.highFreqFactor - rope.lowFreqFactor));
  return f(f(f(f(1 - smooth) * frequency) / rope.factor) + f(smooth * frequency));
}

/** Between the dimensions that turn betaFast and betaSlow times in the original context, a ramp from kept to divided. */
function yarnFrequencies(posFreq: Float32Array, rope: RopeParameters): Float32Array {
  const dims = rope.rotaryDims;
  const dimensionOf = (turns: number) =>
    (dims * Math.log(rope.originalMaxPositions / (turns * 2 * Math.PI))) / (2 * Math.log(rope.theta));
  const [lowExact, highExact] = [dimensionOf(rope.betaFast), dimensionOf(rope.betaSlow)];
  const low = Math.max(rope.truncate ? Math.floor(lowExact) : lowExact, 0);
  let high = Math.min(rope.truncate ? Math.ceil(highExact) : highExact, dims - 1);
  if (low === high) high += 0.001;
  return posFreq.map((p, i) => {
    const ramp = Math.min(Math.max(f(f(i - low) / f(high - low)), 0), 1);
    const kept = f(1 - ramp);
    return f(f(1 / f(rope.factor * p)) * f(1 - kept)) + f(f(1 / p) * kept);
  });
}
