/** The largest singular values of matrices as large as a model's: float64 where it decides, float32 on a device where it only has to be fast. */
import { matmul, matmulTransposed } from "../ops/matmul.js";
import type { Device } from "../tensor/device.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import { addScaled, type Columns, combined, dot, jacobi, orthonormal, type Svd } from "./linalg.js";

/** W [n, k], as its products. */
export interface Products {
  n: number;
  k: number;
  /** W x for each column x of length k, in float64. */
  times(x: Columns): Columns;
  /** Wᵀ y for each column y of length n, in float64. */
  timesTransposed(y: Columns): Columns;
  /** WᵀW x for columns of length k, W Wᵀ x for those of length n, in float32. */
  squared(x: Columns): Promise<Columns>;
}

/** The products of a matrix that lies in memory by rows. The caller disposes of its copy on the device. */
export function productsOf(w: ArrayLike<number>, n: number, k: number, device: Device): Products & Disposable {
  let copy: Tensor | undefined;
  return {
    n,
    k,
    times: (x) => inGroups(x, (columns) => timesFour(w, n, k, columns)),
    timesTransposed: (y) => inGroups(y, (columns) => transposedTimesFour(w, n, k, columns)),
    async squared(x) {
      copy ??= scope(() => Tensor.from(w instanceof Float32Array ? w : Float32Array.from(w), [n, k], { device })).keep();
      const matrix = copy;
      const length = x[0]!.length;
      const rows = new Float32Array(x.length * length);
      for (const [i, column] of x.entries()) rows.set(column, i * length);
      using product = scope(() => {
        const columns = Tensor.from(rows, [x.length, length], { device });
        return length === k
          ? matmul(matmulTransposed(columns, matrix), matrix)
          : matmulTransposed(matmul(columns, matrix), matrix);
      });
      const values = await product.readFloat32();
      return x.map((_, i) => Float64Array.from(values.subarray(i * length, (i + 1) * length)));
    },
    [Symbol.dispose]: () => copy?.dispose(),
  };
}

/** Four columns at a time, the last ones with zeros beside them: W is read once for all four. */
function inGroups(columns: Columns, product: (four: Columns) => Columns): Columns {
  return Array.from({ length: Math.ceil(columns.length / 4) }, (_, i) => {
    const group = columns.slice(4 * i, 4 * i + 4);
    const none = new Float64Array(group[0]!.length);
    return product([...group, ...Array<Float64Array>(4 - group.length).fill(none)]).slice(0, group.length);
  }).flat();
}

function timesFour(w: ArrayLike<number>, n: number, k: number, [a, b, c, d]: Columns): Columns {
  const y = Array.from({ length: 4 }, () => new Float64Array(n));
  const [ya, yb, yc, yd] = y;
  for (let i = 0; i < n; i++) {
    let [sa, sb, sc, sd] = [0, 0, 0, 0];
    for (let j = 0, at = i * k; j < k; j++, at++) {
      const value = w[at]!;
      sa += value * a![j]!;
      sb += value * b![j]!;
      sc += value * c![j]!;
      sd += value * d![j]!;
    }
    ya![i] = sa;
    yb![i] = sb;
    yc![i] = sc;
    yd![i] = sd;
  }
  return y;
}

function transposedTimesFour(w: ArrayLike<number>, n: number, k: number, [a, b, c, d]: Columns): Columns {
  const x = Array.from({ length: 4 }, () => new Float64Array(k));
  const [xa, xb, xc, xd] = x;
  for (let i = 0; i < n; i++) {
    const [fa, fb, fc, fd] = [a![i]!, b![i]!, c![i]!, d![i]!];
    for (let j = 0, at = i * k; j < k; j++, at++) {
      const value = w[at]!;
      xa![j]! += value * fa;
      xb![j]! += value * fb;
      xc![j]! += value * fc;
      xd![j]! += value * fd;
    }
  }
  return x;
}

/** Normal numbers that depend on nothing but their place: where a decomposition starts must not change from run to run. */
export function startColumns(length: number, count: number): Columns {
  let state = 0x9e3779b9;
  const uniform = () => {
    state = (state + 0x6d2b79f5) | 0;
    let z = Math.imul(state ^ (state >>> 15), state | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return (((z ^ (z >>> 14)) >>> 0) + 0.5) / 2 ** 32;
  };
  return Array.from({ length: count }, () =>
    Float64Array.from({ length }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())),
  );
}

/** Columns beside the wanted ones: the filter tells the wanted from what lies below all of these. */
const BESIDE = 8;
/** After so many passes the whole decomposition is computed instead. */
const PASSES = 40;
/** By how much one pass brings out the wanted against the rest: float32 has no more to give. */
const GAIN = 1e5;
const DEGREE = { least: 2, most: 100 };

/**
 * The r largest singular values and vectors, every triplet to a residual of 1e-11 of the largest value. Fewer than r where W is smaller or
 * of lower rank. Subspace iteration with a Chebyshev filter (Zhou et al. 2006) that acts on what is wrong yet, so that the rounding of
 * its many products in float32 is as small as that is; the Rayleigh-Ritz step of each pass is in float64.
 */
export async function largestSingular(w: Products, r: number): Promise<Svd> {
  if (w.n < w.k) {
    const { u, s, v } = await largestSingular({ ...w, n: w.k, k: w.n, times: w.timesTransposed, timesTransposed: w.times }, r);
    return { u: v, s, v: u };
  }
  const wanted = Math.min(r, w.k);
  const count = wanted + BESIDE;
  const complete = () => largest(jacobi(w.times(unitColumns(w.k))), wanted);
  // A basis that is nearly complete had better be it.
  if (w.k <= 4 * count) return complete();
  let basis = orthonormal(w.timesTransposed(w.times(startColumns(w.k, count))));
  for (let pass = 0; pass < PASSES; pass++) {
    const found = ritz(basis, w.times(basis));
    const { u, s, v } = found;
    const wrong = w.timesTransposed(u);
    for (const [i, column] of wrong.entries()) addScaled(column, v[i]!, -s[i]!);
    const size = (column: Float64Array) => Math.sqrt(dot(column, column));
    if (wrong.slice(0, wanted).every((column) => size(column) <= 1e-11 * s[0]!)) return largest(found, wanted);
    basis = orthonormal(await filtered(w, found, wrong, wanted));
  }
  return complete();
}

const unitColumns = (length: number): Columns =>
  Array.from({ length }, (_, j) => Float64Array.from({ length }, (_, i) => (i === j ? 1 : 0)));

const largest = ({ u, s, v }: Svd, count: number): Svd => ({ u: u.slice(0, count), s: s.slice(0, count), v: v.slice(0, count) });

/** The triplets within a basis: the SVD of W basis. */
function ritz(basis: Columns, images: Columns): Svd {
  const { u, s, v } = jacobi(images);
  return { u, s, v: v.map((coefficients) => combined(basis, coefficients, basis[0]!.length)) };
}

/**
 * T(A) v / T(θ) for each Ritz vector, A = WᵀW, θ = s²: T is the Chebyshev polynomial of the interval from 0 to the smallest θ, above which it
 * grows as fast as a polynomial can. By the three-term recurrence of T(A) v / T(θ) − v, which starts from `wrong`, Wᵀu − s v.
 */
async function filtered(w: Products, { s, v }: Svd, wrong: Columns, wanted: number): Promise<Columns> {
  // The values far below the largest drown in the rounding of float32: of those A alone brings out enough.
  const top = s[Math.min(wanted, s.length) - 1]!;
  const edge = s.at(-1)! ** 2;
  const within = Array.from(s, (value) => (2 * value ** 2 - edge) / edge);
  const degree =
    top < 1e-3 * s[0]!
      ? 1
      : Math.min(DEGREE.most, Math.max(DEGREE.least, Math.ceil(Math.acosh(GAIN) / Math.acosh((2 * top ** 2 - edge) / edge))));
  // Each sum is kept off the vectors that are known: what rounding puts there would outgrow all else.
  const known = v.filter((_, i) => dot(wrong[i]!, wrong[i]!) <= (1e-5 * s[0]!) ** 2);
  const off = (columns: Columns) => {
    for (const column of columns) for (const vector of known) addScaled(column, vector, -dot(vector, column));
    return columns;
  };
  const first = off(wrong.map((column, i) => column.map((value) => (2 / edge) * s[i]! * value)));
  let ratio = within.map((at) => 1 / at);
  let before = first.map((column) => new Float64Array(column.length));
  let change = first.map((column, i) => column.map((value) => ratio[i]! * value));
  for (let step = 1; step < degree; step++) {
    const squared = off(await w.squared(change));
    const next = within.map((at, i) => 1 / (2 * at - ratio[i]!));
    const later = change.map((column, i) => {
      const [p, q] = [2 * next[i]!, next[i]! * ratio[i]!];
      return column.map((value, j) => p * ((2 / edge) * squared[i]![j]! - value + first[i]![j]!) - q * before[i]![j]!);
    });
    [before, change, ratio] = [change, later, next];
  }
  for (const [i, column] of change.entries()) addScaled(column, v[i]!, 1);
  return change;
}

/** What torch.svd_lowrank computes with q = r: a random subspace of r columns after `iterations` of subspace iteration (Halko et al. 2009). */
export function approximateSingular(w: Products, r: number, iterations: number): Svd {
  const wanted = Math.min(r, w.n, w.k);
  let q = orthonormal(w.times(startColumns(w.k, wanted)));
  for (let i = 0; i < iterations; i++) q = orthonormal(w.times(orthonormal(w.timesTransposed(q))));
  // B = Qᵀ W, by the columns of Bᵀ.
  const { u, s, v } = jacobi(w.timesTransposed(q));
  return { u: v.map((coefficients) => combined(q, coefficients, w.n)), s, v: u };
}
