/**
 * From logits to a token: transformers' logits processors, in the order its `generate` applies them. Scores are float32
 * [vocab], changed in place; a removed token has -Infinity. Probabilities and sums are float64.
 */

/** Names as in transformers' generation_config.json, in camelCase. Absent: not applied. */
export interface SamplingOptions {
  /** > 0; 1 changes nothing. */
  temperature?: number | undefined;
  /** Keeps the k best; 0 is off. Ties with the k-th are kept. */
  topK?: number | undefined;
  /** Keeps the smallest set of best tokens whose probabilities reach p; 1 is off. */
  topP?: number | undefined;
  /** Removes tokens less likely than minP times the likeliest. */
  minP?: number | undefined;
  /** Entropy-bounded choice among the 100 best (arXiv 2509.02510). */
  topH?: number | undefined;
  /** Keeps tokens whose information is closest to the entropy (arXiv 2202.00666); 1 is off. */
  typicalP?: number | undefined;
  epsilonCutoff?: number | undefined;
  etaCutoff?: number | undefined;
  /** > 1 weakens tokens that occurred, prompt included; 1 is off. */
  repetitionPenalty?: number | undefined;
  /** No sequence of this many tokens occurs twice; 0 is off. */
  noRepeatNgramSize?: number | undefined;
  suppressTokens?: readonly number[] | undefined;
}

/** The processors that greedy decoding uses too. `history`: prompt and tokens so far. */
export function processLogits(scores: Float32Array, history: readonly number[], options: SamplingOptions): void {
  const { repetitionPenalty = 1, noRepeatNgramSize = 0, suppressTokens = [] } = options;
  if (repetitionPenalty !== 1) penalizeRepetition(scores, history, repetitionPenalty);
  if (noRepeatNgramSize > 0) banRepeatedNgrams(scores, history, noRepeatNgramSize);
  for (const id of suppressTokens) scores[id] = -Infinity;
}

/** The processors of sampling, after {@link processLogits}. */
export function warpLogits(scores: Float32Array, options: SamplingOptions): void {
  const { temperature = 1, topH, topK = 0, topP = 1, minP, typicalP = 1, epsilonCutoff = 0, etaCutoff = 0 } = options;
  if (temperature !== 1) for (let i = 0; i < scores.length; i++) scores[i]! /= temperature;
  if (topH !== undefined) keepTopH(scores, topH);
  if (topK > 0) keepTopK(scores, topK);
  if (topP < 1) keepTopP(scores, topP);
  if (minP !== undefined) removeBelow(scores, (_, probs) => minP * probs.reduce((a, b) => Math.max(a, b), 0));
  if (typicalP < 1) keepTypical(scores, typicalP);
  if (epsilonCutoff > 0) removeBelow(scores, () => epsilonCutoff);
  if (etaCutoff > 0) removeBelow(scores, (entropy) => Math.min(etaCutoff, Math.sqrt(etaCutoff) * Math.exp(-entropy)));
}

/** Index of the largest score, the lowest among equals. */
export function argmax(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i]! > scores[best]!) best = i;
  return best;
}

/** Draws from softmax(scores). `uniform` in [0, 1). */
export function drawToken(scores: Float32Array, uniform: number): number {
  const probs = softmax(scores);
  let rest = uniform;
  let last = argmax(scores);
  for (let i = 0; i < probs.length; i++) {
    if (probs[i] === 0) continue;
    rest -= probs[i]!;
    last = i;
    if (rest < 0) break;
  }
  return last;
}

/** float64 [vocab]; removed tokens get 0. */
export function softmax(scores: Float32Array): Float64Array {
  const max = scores[argmax(scores)]!;
  const probs = new Float64Array(scores.length);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += probs[i] = Math.exp(scores[i]! - max);
  for (let i = 0; i < probs.length; i++) probs[i]! /= sum;
  return probs;
}

function penalizeRepetition(scores: Float32Array, history: readonly number[], penalty: number): void {
  for (const id of new Set(history)) {
    const score = scores[id]!;
    scores[id] = score < 0 ? score * penalty : score / penalty;
  }
}

function banRepeatedNgrams(scores: Float32Array, history: readonly number[], size: number): void {
  const start = history.length - size + 1;
  if (start < 0) return;
  for (let at = 0; at + size <= history.length; at++) {
    let same = true;
    for (let i = 0; same && i < size - 1; i++) same = history[at + i] === history[start + i];
    if (same) scores[history[at + size - 1]!] = -Infinity;
  }
}

function keepTopK(scores: Float32Array, k: number): void {
  if (k >= scores.length) return;
  const threshold = scores.toSorted()[scores.length - k]!;
  for (let i = 0; i < scores.length; i++) if (scores[i]! < threshold) scores[i] = -Infinity;
}

function keepTopP(scores: Float32Array, p: number): void {
  const probs = softmax(scores);
  const order = ascending(scores);
  let cumulative = 0;
  // The best token always stays.
  for (const id of order.subarray(0, -1)) {
    cumulative += probs[id]!;
    if (cumulative > 1 - p) return;
    scores[id] = -Infinity;
  }
}

function keepTopH(scores: Float32Array, h: number): void {
  const best = ascending(scores).reverse().subarray(0, 100);
  const probs = softmax(Float32Array.from(best, (id) => scores[id]!));
  const terms = probs.map((p) => (p > 0 ? -p * Math.log(p) : 0));
  const limit = h * terms.reduce((a, b) => a + b, 0);
  const kept = new Set<number>([best[0]!]);
  let sum = terms[0]!;
  for (let i = 1; i < best.length; i++) {
    sum += terms[i]!;
    if (sum <= limit) kept.add(best[i]!);
  }
  for (let i = 0; i < scores.length; i++) if (!kept.has(i)) scores[i] = -Infinity;
}

function keepTypical(scores: Float32Array, mass: number): void {
  const probs = softmax(scores);
  const entropy = entropyOf(probs);
  const distance = Float32Array.from(probs, (p) => Math.abs(-Math.log(p) - entropy));
  const order = ascending(distance);
  let cumulative = 0;
  let last = 0;
  for (; last < order.length - 1; last++) {
    cumulative += probs[order[last]!]!;
    if (cumulative >= mass) break;
  }
  const limit = distance[order[last]!]!;
  for (const id of order.subarray(1)) if (distance[id]! > limit) scores[id] = -Infinity;
}

/** Removes tokens whose probability is below the limit; the likeliest stays. */
function removeBelow(scores: Float32Array, limit: (entropy: number, probs: Float64Array) => number): void {
  const probs = softmax(scores);
  const best = scores[argmax(scores)]!;
  const least = limit(entropyOf(probs), probs);
  for (let i = 0; i < scores.length; i++) if (probs[i]! < least && scores[i]! < best) scores[i] = -Infinity;
}

function entropyOf(probs: Float64Array): number {
  let entropy = 0;
  for (const p of probs) if (p > 0) entropy -= p * Math.log(p);
  return entropy;
}

/** Indices by ascending value; equals by index. Sorting one float64 that holds (value, index) is five times faster than a comparator. */
function ascending(values: Float32Array): Uint32Array {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const keys = new Float64Array(values.length);
  for (let i = 0; i < values.length; i++) {
    const b = bits[i]!;
    const ordered = b >>> 31 ? ~b >>> 0 : (b | 0x80000000) >>> 0;
    keys[i] = ordered * 2 ** 21 + i;
  }
  return Uint32Array.from(keys.sort(), (key) => key % 2 ** 21);
}
