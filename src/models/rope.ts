/** Rotary position embeddings: which forms a config asks for, and their inverse frequencies as transformers computes them. */
import type { ConfigReader } from "./config-reader.js";

/** Rotary parameters of a model, in one form for the keys of transformers 4 and 5. */
export interface RopeParameters {
  type: (typeof TYPES)[number];
  theta: number;
  /** Dimensions of a head that rotate: head_dim times partial_rotary_factor. An odd number is rounded up. */
  rotaryDims: number;
  /** linear, dynamic, llama3, yarn: how many times the context is stretched. */
  factor: number;
  /** dynamic: longer sequences have lower frequencies. */
  maxPositions: number;
  /** llama3, yarn, longrope: positions the model was pretrained on. */
  originalMaxPositions: number;
  /** llama3. */
  lowFreqFactor: number;
  highFreqFactor: number;
  /** yarn. */
  betaFast: number;
  betaSlow: number;
  truncate: boolean;
  /** longrope: what each frequency is divided by, in sequences up to originalMaxPositions and in longer ones. */
  shortFactor: readonly number[];
  longFactor: readonly number[];
  /** What cosines and sines are multiplied with; 1 except for yarn and longrope. */
  attentionScaling: number;
}

const TYPES = ["default", "linear", "dynamic", "llama3", "yarn", "longrope"] as const;
const OWN_NAMES = Object.fromEntries(TYPES.map((type) => [type, type]));

/** What of a model the rotary keys are read with. */
export interface RopeContext {
  /** Dimensions of one attention head. */
  headDim: number;
  maxPositions: number;
  /** rope_theta where the rotary parameters do not hold it. */
  theta: () => number;
  /** What the family calls the forms it has; default: all under their own names. */
  types?: Readonly<Record<string, RopeParameters["type"]>>;
}

/**
 * Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (transformers 4), one rope for all layers. Problems go to the
 * reader.
 */
export function readRopeParameters(config: ConfigReader, headDim: number, maxPositions: number): RopeParameters {
  const key = ropeKey(config);
  const rope = config.object(key);
  if (rope.has("full_attention") || rope.has("sliding_attention")) {
    config.unsupported(key, "one rope per layer type");
    return defaultRope(headDim, maxPositions, 10000);
  }
  return readRope(config, rope, key, { headDim, maxPositions, theta: () => config.positive("rope_theta", 10000) });
}

/** Where a config keeps its rotary parameters; transformers too prefers the older key where both are given. */
export function ropeKey(config: ConfigReader): "rope_scaling" | "rope_parameters" {
  const scaling = config.value("rope_scaling") ?? {};
  return Object.keys(scaling).length > 0 ? "rope_scaling" : "rope_parameters";
}

/** Reads the parameters of one rope from its object `rope`, which stands at `key` of `config`. */
export function readRope(config: ConfigReader, rope: ConfigReader, key: string, context: RopeContext): RopeParameters {
  const { types = OWN_NAMES, headDim, maxPositions } = context;
  const named = rope.string("rope_type", rope.string("type", "default"));
  const partial = (rope.has("partial_rotary_factor") ? rope : config).positive("partial_rotary_factor", 1);
  const theta = rope.has("rope_theta") ? rope.positive("rope_theta") : context.theta();
  const parameters: RopeParameters = { ...defaultRope(headDim, maxPositions, theta), rotaryDims: Math.trunc(headDim * partial) };
  const { rotaryDims } = parameters;
  if (rotaryDims < 1 || 2 * halfOf(parameters) > headDim)
    config.invalid("head_dim", `gives ${rotaryDims} rotary dimensions; a head has ${headDim}, and they turn in pairs`);
  const type = types[named];
  if (!type) {
    config.unsupported(`${key}.rope_type`, `"${named}" (supported: ${Object.keys(types).join(", ")})`);
    return parameters;
  }
  parameters.type = type;
  // Phi-3 has it beside the rotary parameters too, where it counts for more.
  const original = rope.positive("original_max_position_embeddings", maxPositions);
  parameters.originalMaxPositions = config.positive("original_max_position_embeddings", original);
  if (type === "default") return parameters;
  const stretched = maxPositions / parameters.originalMaxPositions;
  parameters.factor = rope.positive("factor", type === "yarn" || type === "longrope" ? stretched : undefined);
  if (type === "dynamic" && rotaryDims <= 2)
    config.invalid("head_dim", "must give more than 2 rotary dimensions for dynamic scaling");
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
  if (type === "longrope") {
    parameters.shortFactor = readFactors(rope, "short_factor", halfOf(parameters));
    parameters.longFactor = readFactors(rope, "long_factor", halfOf(parameters));
    parameters.attentionScaling = longropeScaling(parameters, rope);
  }
  return parameters;
}

function defaultRope(headDim: number, maxPositions: number, theta: number): RopeParameters {
  return {
    type: "default",
    theta,
    rotaryDims: headDim,
    factor: 1,
    maxPositions,
    originalMaxPositions: maxPositions,
    lowFreqFactor: 1,
    highFreqFactor: 4,
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
    shortFactor: [],
    longFactor: [],
    attentionScaling: 1,
  };
}

/** Pairs of dimensions that turn. */
export const halfOf = ({ rotaryDims }: RopeParameters) => Math.ceil(rotaryDims / 2);

function readFactors(rope: ConfigReader, key: string, count: number): number[] {
  const value = rope.value(key);
  if (Array.isArray(value) && value.length === count && value.every((x) => Number.isFinite(x) && x > 0)) return value;
  rope.invalid(key, `must be a list of ${count} numbers above 0, one for each pair of rotary dimensions`);
  return Array(count).fill(1);
}

function yarnScaling(factor: number, rope: ConfigReader): number {
  if (rope.has("attention_factor")) return rope.number("attention_factor", 1);
  const scale = (mscale: number) => (factor <= 1 ? 1 : 0.1 * mscale * Math.log(factor) + 1);
  const mscale = rope.number("mscale", 0);
  const allDim = rope.number("mscale_all_dim", 0);
  return mscale && allDim ? scale(mscale) / scale(allDim) : scale(1);
}

function longropeScaling({ factor, originalMaxPositions }: RopeParameters, rope: ConfigReader): number {
  if (rope.has("attention_factor")) return rope.number("attention_factor", 1);
  if (factor <= 1) return 1;
  if (originalMaxPositions <= 1) rope.invalid("original_max_position_embeddings", "must be above 1");
  return Math.sqrt(1 + Math.log(factor) / Math.log(originalMaxPositions));
}

const f = Math.fround;

/** Whether frequencies depend on the length of the sequence: dynamic beyond the model's context, longrope beyond the original one. */
export const changesWithLength = ({ type }: RopeParameters) => type === "dynamic" || type === "longrope";

/**
 * Inverse frequencies, float32 [rotaryDims / 2, rounded up], each step rounded to float32 as in transformers' modeling_rope_utils.
 * Sources: Su et al. 2021 (default), Chen et al. 2023 (linear), bloc97 and emozilla 2023 (dynamic NTK), Llama 3.1 (llama3),
 * Peng et al. 2023 (yarn), Ding et al. 2024 (longrope).
 * @param length of the sequence in tokens, for ropes that depend on it.
 */
export function inverseFrequencies(rope: RopeParameters, length = 0): Float32Array {
  const theta = rope.type === "dynamic" ? dynamicTheta(rope, length) : rope.theta;
  const exponents = Float32Array.from({ length: halfOf(rope) }, (_, i) => (2 * i) / rope.rotaryDims);
  const posFreq = exponents.map((exponent) => theta ** exponent);
  const base = posFreq.map((p) => 1 / p);
  if (rope.type === "linear") return base.map((x) => x / rope.factor);
  if (rope.type === "llama3") return base.map((x) => llama3Frequency(x, rope));
  if (rope.type === "yarn") return yarnFrequencies(posFreq, rope);
  if (rope.type === "longrope") {
    const factors = length > rope.originalMaxPositions ? rope.longFactor : rope.shortFactor;
    return posFreq.map((p, i) => 1 / f(f(factors[i]!) * p));
  }
  return base;
}

/** A larger base as the sequence grows beyond the context, so that the slowest pair turns as far as it did before. */
function dynamicTheta({ theta, factor, maxPositions, rotaryDims }: RopeParameters, length: number): number {
  if (length <= maxPositions) return theta;
  const stretch = f(f(f(factor * length) / maxPositions) - (factor - 1));
  return f(theta * f(stretch ** (rotaryDims / (rotaryDims - 2))));
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
