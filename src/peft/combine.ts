import { LowrankError } from "../errors.js";
import { didYouMean } from "../suggest.js";
import type { Device } from "../tensor/device.js";
import type { Columns } from "./linalg.js";
import { largestSingular, productsOf } from "./singular.js";

export const COMBINATION_TYPES = [
  "linear",
  "cat",
  "svd",
  "ties",
  "ties_svd",
  "dare_linear",
  "dare_ties",
  "dare_linear_svd",
  "dare_ties_svd",
  "magnitude_prune",
  "magnitude_prune_svd",
] as const;
export type CombinationType = (typeof COMBINATION_TYPES)[number];

export interface CombineOptions {
  /** Default "svd", as in PEFT. One adapter alone is always combined linearly. */
  combinationType?: CombinationType;
  /** Rank of the result of the svd kinds; default: the largest rank. */
  svdRank?: number;
  /** Share of values that the ties, dare and magnitude_prune kinds keep, from 0 to 1. */
  density?: number;
  /** How ties finds the sign that counts: by the sum of values, or by their number. Default "total". */
  majoritySignMethod?: "total" | "frequency";
  /** Seed of what the dare kinds drop. Default 42. */
  seed?: number;
}

/** One adapter's matrices in one module: a [rank, in], b [out, rank]; what it adds is scale · b a. */
export interface Term {
  a: Float32Array;
  b: Float32Array;
  rank: number;
  scale: number;
  weight: number;
  /** Values that dare keeps, 1 each; only asked for by the dare kinds. */
  keep(what: "A" | "B" | "delta", size: number): ArrayLike<number>;
}

/** Throws INVALID_ARGUMENT for options that PEFT refuses, or should; returns the kind and the rank of the result. */
export function checkCombination(
  ranks: readonly number[],
  weights: readonly number[],
  options: CombineOptions,
): { kind: CombinationType; rank: number } {
  const { combinationType = "svd", svdRank, density, majoritySignMethod = "total" } = options;
  const problems: string[] = [];
  if (!COMBINATION_TYPES.includes(combinationType))
    problems.push(`there is no combination type '${combinationType}'${didYouMean(combinationType, COMBINATION_TYPES)}`);
  if (ranks.length === 0) problems.push("no adapters are named");
  if (weights.length !== ranks.length) problems.push(`${ranks.length} adapters have ${weights.length} weights`);
  if (!weights.every(Number.isFinite)) problems.push("the weights must be finite numbers");
  if (!["total", "frequency"].includes(majoritySignMethod))
    problems.push(`majoritySignMethod must be "total" or "frequency", not ${JSON.stringify(majoritySignMethod)}`);
  if (svdRank !== undefined && !(Number.isSafeInteger(svdRank) && svdRank > 0))
    problems.push("svdRank must be an integer above 0");
  if (/ties|dare|prune/.test(combinationType) && !(typeof density === "number" && density >= 0))
    problems.push(`${combinationType} needs a density from 0 to 1, found ${density ?? "none"}`);
  const kind = ranks.length === 1 ? "linear" : combinationType;
  const largest = Math.max(...ranks);
  const byMatrix = !kind.endsWith("svd") && kind !== "cat";
  if (byMatrix && new Set(ranks).size > 1) problems.push(`${kind} needs adapters of one rank, they have ${ranks.join(", ")}`);
  if (problems.length > 0) {
    throw new LowrankError("INVALID_ARGUMENT", `The adapters cannot be combined:\n- ${problems.join("\n- ")}`, {
      details: { problems },
    });
  }
  const sum = ranks.reduce((total, rank) => total + rank, 0);
  return { kind, rank: kind === "cat" ? sum : kind.endsWith("svd") ? (svdRank ?? largest) : largest };
}

/**
 * One module's matrices of a weighted adapter (PEFT's add_weighted_adapter), of rank `rank` at scale 1; rows of a that no adapter
 * fills are zero. `linear` and its kin treat a and b apart, with √|weight · scale| on each, so that products of different adapters appear; `cat` is
 * the exact weighted sum, the svd kinds its best approximation of that rank.
 */
export async function combineTerms(
  kind: CombinationType,
  terms: readonly Term[],
  shape: { in: number; out: number },
  rank: number,
  options: CombineOptions,
  device: Device,
): Promise<{ a: Float32Array; b: Float32Array }> {
  if (kind === "cat") return concatenated(terms, shape, rank);
  if (kind.endsWith("svd")) {
    // What each adapter adds is pruned and votes; its weight comes after.
    const tensors = terms.map((term) => deltaOf(term, shape));
    const weights = terms.map(({ weight }) => weight);
    const keep = (i: number) => terms[i]!.keep("delta", shape.in * shape.out);
    return factored(mixed(kind.replace(/_?svd$/, "") || "linear", tensors, weights, keep, options), shape, rank, device);
  }
  const factors = terms.map(({ weight, scale }) => weight * scale);
  const roots = factors.map((factor) => Math.sqrt(Math.abs(factor)));
  const signed = roots.map((root, i) => (factors[i]! < 0 ? -root : root));
  const part = (what: "A" | "B", tensors: Float32Array[], weights: number[]) =>
    mixed(kind, tensors, weights, (i) => terms[i]!.keep(what, tensors[i]!.length), options);
  const a = part(
    "A",
    terms.map((term) => term.a),
    signed,
  );
  const b = part(
    "B",
    terms.map((term) => term.b),
    roots,
  );
  return placed([{ a, b, rank: terms[0]!.rank }], shape, rank);
}

function concatenated(terms: readonly Term[], shape: { in: number; out: number }, rank: number) {
  const scaled = terms.map(({ a, b, rank, weight, scale }) => ({ a: a.map((value) => value * weight * scale), b, rank }));
  return placed(scaled, shape, rank);
}

/** Matrices one below (a) or beside (b) the other, with zeros up to `rank`. */
function placed(
  terms: readonly { a: ArrayLike<number>; b: ArrayLike<number>; rank: number }[],
  shape: { in: number; out: number },
  rank: number,
) {
  const a = new Float32Array(rank * shape.in);
  const b = new Float32Array(shape.out * rank);
  let at = 0;
  for (const term of terms) {
    a.set(term.a, at * shape.in);
    for (let i = 0; i < shape.out; i++) for (let j = 0; j < term.rank; j++) b[i * rank + at + j] = term.b[i * term.rank + j]!;
    at += term.rank;
  }
  return { a, b };
}

/** scale · b a, [out, in]. */
function deltaOf({ a, b, rank, scale }: Term, shape: { in: number; out: number }): Float64Array {
  const delta = new Float64Array(shape.out * shape.in);
  for (let i = 0; i < shape.out; i++) {
    for (let r = 0; r < rank; r++) {
      const factor = scale * b[i * rank + r]!;
      if (factor !== 0) for (let j = 0; j < shape.in; j++) delta[i * shape.in + j]! += factor * a[r * shape.in + j]!;
    }
  }
  return delta;
}

/** The best matrices of that rank: b = U S, a = Vᵀ. */
async function factored(delta: Float64Array, shape: { in: number; out: number }, rank: number, device: Device) {
  using products = productsOf(delta, shape.out, shape.in, device);
  const { u, s, v } = await largestSingular(products, rank);
  const a = new Float32Array(rank * shape.in);
  const b = new Float32Array(shape.out * rank);
  for (const [r, column] of v.entries()) a.set(column, r * shape.in);
  fillColumns(b, u, s, rank);
  return { a, b };
}

function fillColumns(b: Float32Array, u: Columns, s: Float64Array, rank: number): void {
  for (const [r, column] of u.entries()) for (let i = 0; i < column.length; i++) b[i * rank + r] = column[i]! * s[r]!;
}

/** The weighted sum of tensors after what the kind does to them: pruning, dropping, the vote of signs (TIES, Yadav et al. 2023). */
function mixed(
  kind: string,
  tensors: readonly (Float32Array | Float64Array)[],
  weights: readonly number[],
  keep: (i: number) => ArrayLike<number>,
  { density = 1, majoritySignMethod = "total" }: CombineOptions,
): Float64Array {
  const pruned = tensors.map((tensor, i) => {
    if (kind === "linear" || density >= 1) return tensor;
    if (!kind.startsWith("dare")) return largestKept(tensor, density);
    const kept = keep(i);
    // Dropped at random, the rest made up for it (DARE, Yu et al. 2023).
    return Float64Array.from(tensor, (value, at) => (kept[at] ? value / density : 0));
  });
  const votes = kind.endsWith("ties");
  const sum = new Float64Array(tensors[0]!.length);
  for (let at = 0; at < sum.length; at++) {
    let vote = 0;
    if (votes) for (const tensor of pruned) vote += majoritySignMethod === "total" ? tensor[at]! : Math.sign(tensor[at]!);
    const sign = vote >= 0 ? 1 : -1;
    let [total, count] = [0, 0];
    for (const [i, tensor] of pruned.entries()) {
      if (votes && Math.sign(tensor[at]!) !== sign) continue;
      total += tensor[at]! * weights[i]!;
      count++;
    }
    sum[at] = votes ? total / Math.max(count, 1) : total;
  }
  return sum;
}

/** Zero but for the ⌊density · n⌋ largest values; of equals the first stay. */
function largestKept(tensor: Float32Array | Float64Array, density: number): Float64Array {
  const count = Math.trunc(density * tensor.length);
  const sizes = Float64Array.from(tensor, Math.abs).sort();
  const smallest = sizes[sizes.length - count] ?? Number.POSITIVE_INFINITY;
  let equals = count - (sizes.length - 1 - sizes.findLastIndex((size) => size <= smallest));
  return Float64Array.from(tensor, (value) => {
    const size = Math.abs(value);
    return size > smallest || (size === smallest && equals-- > 0) ? value : 0;
  });
}
