/** Options of generation: what a call may say, what generation_config.json says, and how the two combine. */
import { LowrankError } from "../errors.js";
import type { Keys } from "../notes.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { SamplingOptions } from "./sampling.js";

export interface GenerateOptions extends SamplingOptions {
  /** Adapter to use, null for the base alone. Absent: the one that is active when the call is made. */
  adapter?: string | null | undefined;
  signal?: AbortSignal | undefined;
  /** Most tokens to generate; default: generation_config's, else 256. The model's context is a limit too. */
  maxNewTokens?: number | undefined;
  /** Draw from the distribution instead of taking the best token. Default: true when a sampling option is given, else generation_config's. */
  doSample?: boolean | undefined;
  /** Makes sampling repeatable: an integer from 0 to 2^53 - 1. */
  seed?: number | undefined;
  /** Generation ends before the first of these texts; they are not part of the result. */
  stop?: string | readonly string[] | undefined;
  /** Token(s) that end the generation, null for none. Default: generation_config's, else config's. */
  eosTokenId?: number | readonly number[] | null | undefined;
  /** For prompts of text or messages; default: the one in the model's folder. */
  tokenizer?: Tokenizer | undefined;
  /** Leave special tokens out of the text (default true). */
  skipSpecialTokens?: boolean | undefined;
  /** Tokens of the prompt that pass through the model at once (default 512): bounds memory, and how long an abort waits. */
  prefillChunk?: number | undefined;
}

/** generation_config.json, as far as it concerns this package; unknown keys are kept for saving. */
export interface GenerationConfig {
  maxNewTokens: number | undefined;
  doSample: boolean;
  eosTokenIds: readonly number[];
  sampling: SamplingOptions;
  json: Readonly<Record<string, unknown>>;
}

const SAMPLING_KEYS = {
  temperature: "temperature",
  topK: "top_k",
  topP: "top_p",
  minP: "min_p",
  topH: "top_h",
  typicalP: "typical_p",
  epsilonCutoff: "epsilon_cutoff",
  etaCutoff: "eta_cutoff",
  repetitionPenalty: "repetition_penalty",
  noRepeatNgramSize: "no_repeat_ngram_size",
} as const;
/** Options that only matter when drawing. */
const DRAWING = ["temperature", "topK", "topP", "minP", "topH", "typicalP", "epsilonCutoff", "etaCutoff"] as const;

/** @param keys of generation_config.json; none where the model has no such file. @param eosTokenIds those of config.json. */
export function readGenerationConfig(keys: Keys, eosTokenIds: readonly number[]): GenerationConfig {
  const sampling: Record<string, unknown> = {};
  for (const [name, key] of Object.entries(SAMPLING_KEYS)) {
    const value = keys.number(key);
    if (value !== undefined) sampling[name] = value;
  }
  if (Array.isArray(keys.json.suppress_tokens)) sampling.suppressTokens = keys.read("suppress_tokens");
  const eos = [keys.read("eos_token_id") ?? []].flat().filter((id): id is number => typeof id === "number");
  return {
    maxNewTokens: keys.number("max_new_tokens"),
    doSample: keys.read("do_sample") === true,
    eosTokenIds: eos.length > 0 ? eos : eosTokenIds,
    sampling: sampling as SamplingOptions,
    json: keys.json,
  };
}

/** Everything a run of the decoder needs, no option left open. */
export interface ResolvedOptions {
  maxNewTokens: number;
  doSample: boolean;
  seed: number;
  stop: readonly string[];
  eosTokenIds: ReadonlySet<number>;
  sampling: SamplingOptions;
  signal: AbortSignal | undefined;
  skipSpecialTokens: boolean;
  prefillChunk: number;
}

/**
 * Fills in the defaults and checks all options at once.
 * @throws LowrankError INVALID_CONFIG that lists every mistake.
 */
export function resolveOptions(options: GenerateOptions, config: GenerationConfig, vocabSize: number): ResolvedOptions {
  const given = Object.fromEntries(
    Object.keys(SAMPLING_KEYS).flatMap((name) => {
      const value = options[name as keyof SamplingOptions];
      return value === undefined ? [] : [[name, value]];
    }),
  ) as SamplingOptions;
  const drawing = DRAWING.some((name) => given[name] !== undefined);
  const doSample = options.doSample ?? (given.temperature === 0 ? false : drawing || config.doSample);
  const sampling: SamplingOptions = { topK: 50, ...config.sampling, ...given };
  if (options.suppressTokens) sampling.suppressTokens = options.suppressTokens;
  const eos =
    options.eosTokenId === undefined ? config.eosTokenIds : options.eosTokenId === null ? [] : [options.eosTokenId].flat();
  const resolved: ResolvedOptions = {
    maxNewTokens: options.maxNewTokens ?? config.maxNewTokens ?? 256,
    doSample,
    seed: options.seed ?? Math.floor(Math.random() * 2 ** 53),
    stop: [options.stop ?? []].flat(),
    eosTokenIds: new Set(eos),
    sampling,
    signal: options.signal,
    skipSpecialTokens: options.skipSpecialTokens ?? true,
    prefillChunk: options.prefillChunk ?? 512,
  };
  check(resolved, vocabSize);
  return resolved;
}

function check(options: ResolvedOptions, vocabSize: number): void {
  const mistakes: string[] = [];
  const require = (ok: boolean, text: string) => ok || mistakes.push(text);
  const { sampling: s } = options;
  const within = (name: keyof SamplingOptions, low: number, high: number, open: boolean) => {
    const value = s[name];
    if (value === undefined) return;
    const inside = typeof value === "number" && value <= high && (open ? value > low : value >= low);
    require(inside, `${name} must be in ${open ? "(" : "["}${low}, ${high}], not ${value}`);
  };
  require(Number.isInteger(options.maxNewTokens) &&
    options.maxNewTokens >= 0, `maxNewTokens must be an integer >= 0, not ${options.maxNewTokens}`);
  require(Number.isInteger(options.prefillChunk) &&
    options.prefillChunk > 0, `prefillChunk must be an integer > 0, not ${options.prefillChunk}`);
  require(Number.isSafeInteger(options.seed) &&
    options.seed >= 0, `seed must be an integer from 0 to 2^53 - 1, not ${options.seed}`);
  require(options.stop.every((text) => typeof text === "string" && text !== ""), "stop must be texts that are not empty");
  const isToken = (id: number) => Number.isInteger(id) && id >= 0 && id < vocabSize;
  require([...options.eosTokenIds].every((id) => Number.isInteger(id) && id >= 0), "eosTokenId must be token ids");
  require((s.suppressTokens ?? []).every(isToken), `suppressTokens must be ids below ${vocabSize}`);
  if (options.doSample) within("temperature", 0, Number.MAX_VALUE, true);
  within("topP", 0, 1, false);
  within("minP", 0, 1, false);
  within("topH", 0, 1, true);
  within("typicalP", 0, 1, true);
  within("epsilonCutoff", 0, 1, false);
  within("etaCutoff", 0, 1, false);
  within("repetitionPenalty", 0, Number.MAX_VALUE, true);
  for (const name of ["topK", "noRepeatNgramSize"] as const) {
    require(Number.isInteger(s[name] ?? 0) && (s[name] ?? 0) >= 0, `${name} must be an integer >= 0, not ${s[name]}`);
  }
  if (mistakes.length > 0)
    throw new LowrankError(
      "INVALID_CONFIG",
      `Generation options (of the call or of generation_config.json): ${mistakes.join("; ")}`,
      { details: { mistakes } },
    );
}
