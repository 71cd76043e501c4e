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

/** The processors of sampling, after {@link processLogits}. Returns the ids that may still be drawn, ascending: what follows looks at no others. */
export function warpLogits(scores: Float32Array, options: SamplingOptions): Uint32Array {
  const { temperature = 1, topH, topK = 0, topP = 1, minP, typicalP = 1, epsilonCutoff = 0, etaCutoff = 0 } = options;
  if (temperature !== 1) for (let i = 0; i < scores.length; i++) scores[i]! /= temperature;
  let ids: Uint32Array = new Uint32Array(scores.length);
  for (let i = 0; i < ids.length; i++) ids[i] = i;
  if (topH !== undefined) ids = keepTopH(scores, ids, topH);
  if (topK > 0) ids = keepTopK(scores, ids, topK);
  if (topP < 1) ids = keepTopP(scores, ids, topP);
  if (minP !== undefined) ids = removeBelow(scores, ids, (_, probs) => minP * probs.reduce((a, b) => Math.max(a, b), 0));
  if (typicalP < 1) ids = keepTypical(scores, ids, typicalP);
  if (epsilonCutoff > 0) ids = removeBelow(scores, ids, () => epsilonCutoff);
  if (etaCutoff > 0) ids = removeBelow(scores, ids, (entropy) => Math.min(etaCutoff, Math.sqrt(etaCutoff) * Math.exp(-entropy)));
  return ids;
}

/** Index of the largest score, the lowest among equals. */
export function argmax(scores: Float32Array): number {
  let best = 0;
  for (let i = 1; i < scores.length; i++) if (scores[i]! > scores[best]!) best = i;
  return best;
}

/** Draws one of `ids` from the softmax of their scores. `uniform` in [0, 1). */
export function drawToken(scores: Float32Array, ids: Uint32Array, uniform: number): number {
  const probs = softmax(scores, ids);
  let rest = uniform;
  let last = argmax(scores);
  for (let i = 0; i < ids.length; i++) {
    if (probs[i] === 0) continue;
    rest -= probs[i]!;
    last = ids[i]!;
    if (rest < 0) break;
  }
  return last;
}

/** Probabilities of `ids` among themselves, float64; a removed token gets 0. */
export function softmax(scores: Float32Array, ids: Uint32Array): Float64Array {
  const max = largest(scores, ids);
  const probs = new Float64Array(ids.length);
  let sum = 0;
  for (let i = 0; i < ids.length; i++) sum += probs[i] = Math.exp(scores[ids[i]!]! - max);
  for (let i = 0; i < probs.length; i++) probs[i]! /= sum;
  return probs;
}

function largest(scores: Float32Array, ids: Uint32Array): number {
  let max = -Infinity;
  for (const id of ids) if (scores[id]! > max) max = scores[id]!;
  return max;
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

/** Those of `ids` for which `stays` (id, place among them) holds; the others are removed. */
function keep(scores: Float32Array, ids: Uint32Array, stays: (id: number, at: number) => boolean): Uint32Array {
  const kept = new Uint32Array(ids.length);
  let count = 0;
  for (let at = 0; at < ids.length; at++) {
    const id = ids[at]!;
    if (stays(id, at)) kept[count++] = id;
    else scores[id] = -Infinity;
  }
  return kept.subarray(0, count);
}

function keepTopK(scores: Float32Array, ids: Uint32Array, k: number): Uint32Array {
  if (k >= ids.length) return ids;
  const threshold = nthLargest(scores, ids, k);
  return keep(scores, ids, (id) => !(scores[id]! < threshold));
}

function keepTopP(scores: Float32Array, ids: Uint32Array, p: number): Uint32Array {
  const probs = softmax(scores, ids);
  // All tokens below this score together have less than 1 - p: they go whatever their order is, and need not be sorted.
  const low = largest(scores, ids) - Math.log(ids.length / (1 - p));
  let cumulative = 0;
  const places: number[] = [];
  for (let i = 0; i < ids.length; i++) {
    if (scores[ids[i]!]! < low) cumulative += probs[i]!;
    else places.push(i);
  }
  const order = ascending(Float32Array.from(places, (i) => scores[ids[i]!]!));
  // The best token always stays.
  for (const at of order.subarray(0, -1)) {
    const i = places[at]!;
    cumulative += probs[i]!;
    if (cumulative > 1 - p) break;
    scores[ids[i]!] = -Infinity;
  }
  return keep(scores, ids, (id) => !(scores[id]! < low));
}

/** Tokens among which top-H chooses. */
const TOP_H = 100;

function keepTopH(scores: Float32Array, ids: Uint32Array, h: number): Uint32Array {
  const threshold = nthLargest(scores, ids, Math.min(TOP_H, ids.length));
  const top = ids.filter((id) => !(scores[id]! < threshold));
  const best = ascending(Float32Array.from(top, (id) => scores[id]!))
    .reverse()
    .subarray(0, TOP_H)
    .map((at) => top[at]!);
  const probs = softmax(scores, best);
  const terms = probs.map((p) => (p > 0 ? -p * Math.log(p) : 0));
  const limit = h * terms.reduce((a, b) => a + b, 0);
  const kept = new Set<number>([best[0]!]);
  let sum = terms[0]!;
  for (let i = 1; i < best.length; i++) {
    sum += terms[i]!;
    if (sum <= limit) kept.add(best[i]!);
  }
  return keep(scores, ids, (id) => kept.has(id));
}

function keepTypical(scores: Float32Array, ids: Uint32Array, mass: number): Uint32Array {
  const probs = softmax(scores, ids);
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
  return keep(scores, ids, (_, i) => i === order[0] || !(distance[i]! > limit));
}

/** Removes tokens whose probability is below the limit; the likeliest stays. */
function removeBelow(
  scores: Float32Array,
  ids: Uint32Array,
  limit: (entropy: number, probs: Float64Array) => number,
): Uint32Array {
  const probs = softmax(scores, ids);
  const best = largest(scores, ids);
  const least = limit(entropyOf(probs), probs);
  return keep(scores, ids, (id, i) => !(probs[i]! < least && scores[id]! < best));
}

/** The n-th largest score of `ids`, n from 1 to their number: the root of a heap of the n largest so far, the least on top. */
function nthLargest(scores: Float32Array, ids: Uint32Array, n: number): number {
  const heap = Float32Array.from(ids.subarray(0, n), (id) => scores[id]!).sort();
  for (const id of ids.subarray(n)) {
    const score = scores[id]!;
    if (!(score > heap[0]!)) continue;
    let at = 0;
    for (let child = 1; child < n; child = 2 * at + 1) {
      if (child + 1 < n && heap[child + 1]! < heap[child]!) child++;
      if (!(heap[child]! < score)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = score;
  }
  return heap[0]!;
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
    const b = bits[i] === 0x80000000 ? 0 : bits[i]!; // -0 equals 0
    const ordered = b >>> 31 ? ~b >>> 0 : (b | 0x80000000) >>> 0;
    keys[i] = ordered * 2 ** 21 + i;
  }
  return Uint32Array.from(keys.sort(), (key) => key % 2 ** 21);
}
