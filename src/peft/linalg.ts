/**
 * Small dense linear algebra in float64, for initialising and combining adapters. A matrix is a list of its columns.
 */
export type Columns = Float64Array[];

export interface Svd {
  /** Left singular vectors, columns of length n. */
  u: Columns;
  /** Descending. */
  s: Float64Array;
  /** Right singular vectors, columns of length k. */
  v: Columns;
}

/** The products that the SVD of W [n, k] needs of it. */
export interface Products {
  n: number;
  k: number;
  /** W x for each column x of length k. */
  times(x: Columns): Columns;
  /** Wᵀ y for each column y of length n. */
  timesTransposed(y: Columns): Columns;
}

/** The products of a matrix that lies in memory by rows. */
export function productsOf(w: ArrayLike<number>, n: number, k: number): Products {
  return {
    n,
    k,
    times: (x) =>
      x.map((column) => {
        const y = new Float64Array(n);
        for (let i = 0; i < n; i++) {
          let sum = 0;
          for (let j = 0, at = i * k; j < k; j++) sum += w[at + j]! * column[j]!;
          y[i] = sum;
        }
        return y;
      }),
    timesTransposed: (y) =>
      y.map((column) => {
        const x = new Float64Array(k);
        for (let i = 0; i < n; i++) {
          const factor = column[i]!;
          if (factor !== 0) for (let j = 0, at = i * k; j < k; j++) x[j]! += w[at + j]! * factor;
        }
        return x;
      }),
  };
}

const dot = (a: Float64Array, b: Float64Array): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};

function addScaled(y: Float64Array, x: Float64Array, factor: number): void {
  for (let i = 0; i < y.length; i++) y[i]! += factor * x[i]!;
}

/** Σ columns[j] coefficients[j]. */
function combined(columns: Columns, coefficients: ArrayLike<number>, length: number): Float64Array {
  const y = new Float64Array(length);
  for (const [j, column] of columns.entries()) addScaled(y, column, coefficients[j]!);
  return y;
}

/** Orthonormal columns that, with `basis` (orthonormal too), span what `columns` do besides. Columns that add nothing are left out. */
export function orthonormal(columns: Columns, basis: Columns = []): Columns {
  const added: Columns = [];
  for (const column of columns) {
    const x = Float64Array.from(column);
    const size = Math.sqrt(dot(x, x));
    // Twice is enough (Giraud, Langou & Rozložník 2005).
    for (let pass = 0; pass < 2; pass++) for (const q of [...basis, ...added]) addScaled(x, q, -dot(q, x));
    const norm = Math.sqrt(dot(x, x));
    if (!(norm > 1e-13 * size)) continue;
    for (let i = 0; i < x.length; i++) x[i]! /= norm;
    added.push(x);
  }
  return added;
}

/**
 * Householder QR of columns of length n ≥ their number, signs as LAPACK's dgeqrf chooses them: R's diagonal is −sign(x₁)‖x‖.
 * q: as many orthonormal columns; r: upper triangular, by columns.
 */
export function qr(columns: Columns): { q: Columns; r: Columns } {
  const n = columns[0]?.length ?? 0;
  const a = columns.map((column) => Float64Array.from(column));
  const reflectors: { v: Float64Array; tau: number }[] = [];
  const reflect = (x: Float64Array, { v, tau }: { v: Float64Array; tau: number }, from: number) => {
    let sum = 0;
    for (let i = from; i < n; i++) sum += v[i]! * x[i]!;
    for (let i = from; i < n; i++) x[i]! -= tau * sum * v[i]!;
  };
  const steps = Math.min(n, a.length);
  for (let j = 0; j < steps; j++) {
    const x = a[j]!;
    let rest = 0;
    for (let i = j + 1; i < n; i++) rest += x[i]! ** 2;
    const alpha = x[j]!;
    const beta = rest === 0 ? alpha : -Math.sign(alpha || 1) * Math.sqrt(alpha * alpha + rest);
    const v = new Float64Array(n);
    v[j] = 1;
    if (rest !== 0) for (let i = j + 1; i < n; i++) v[i] = x[i]! / (alpha - beta);
    const reflector = { v, tau: rest === 0 ? 0 : (beta - alpha) / beta };
    reflectors.push(reflector);
    for (let c = j; c < a.length; c++) reflect(a[c]!, reflector, j);
  }
  const q = Array.from({ length: steps }, (_, j) => {
    const column = new Float64Array(n);
    column[j] = 1;
    for (let i = steps - 1; i >= 0; i--) reflect(column, reflectors[i]!, i);
    return column;
  });
  return { q, r: a.map((column) => column.slice(0, steps)) };
}

/** One-sided Jacobi (Hestenes): the SVD of columns, u s vᵀ, accurate to rounding. */
export function jacobi(columns: Columns): Svd {
  const c = columns.length;
  const a = columns.map((column) => Float64Array.from(column));
  const v = Array.from({ length: c }, (_, j) => Float64Array.from({ length: c }, (_, i) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let rotated = false;
    for (let p = 0; p < c; p++) {
      for (let q = p + 1; q < c; q++) {
        const [x, y] = [a[p]!, a[q]!];
        const [alpha, beta, gamma] = [dot(x, x), dot(y, y), dot(x, y)];
        if (Math.abs(gamma) <= 1e-15 * Math.sqrt(alpha * beta) || gamma === 0) continue;
        rotated = true;
        const zeta = (beta - alpha) / (2 * gamma);
        const t = Math.sign(zeta || 1) / (Math.abs(zeta) + Math.sqrt(1 + zeta * zeta));
        const cos = 1 / Math.sqrt(1 + t * t);
        rotate(x, y, cos, cos * t);
        rotate(v[p]!, v[q]!, cos, cos * t);
      }
    }
    if (!rotated) break;
  }
  const sizes = a.map((column) => Math.sqrt(dot(column, column)));
  const order = sizes.map((_, i) => i).sort((i, j) => sizes[j]! - sizes[i]!);
  return {
    u: order.map((i) => a[i]!.map((value) => (sizes[i] === 0 ? 0 : value / sizes[i]!))),
    s: Float64Array.from(order, (i) => sizes[i]!),
    v: order.map((i) => v[i]!),
  };
}

function rotate(x: Float64Array, y: Float64Array, cos: number, sin: number): void {
  for (let i = 0; i < x.length; i++) {
    const [a, b] = [x[i]!, y[i]!];
    x[i] = cos * a - sin * b;
    y[i] = sin * a + cos * b;
  }
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

/**
 * The r largest singular values and vectors, to rounding: block Krylov (Musco & Musco 2015) until every triplet's residual is below
 * 1e-11 of the largest value, or the basis is complete. Fewer than r where W is smaller or of lower rank.
 */
export function largestSingular(w: Products, r: number): Svd {
  if (w.n < w.k) {
    // The basis is complete only on the shorter side.
    const { u, s, v } = largestSingular({ n: w.k, k: w.n, times: w.timesTransposed, timesTransposed: w.times }, r);
    return { u: v, s, v: u };
  }
  const most = Math.min(w.n, w.k);
  const wanted = Math.min(r, most);
  const basis: Columns = [];
  const images: Columns = [];
  let block = orthonormal(startColumns(w.k, Math.min(most, wanted + 8)));
  for (;;) {
    const image = w.times(block);
    basis.push(...block);
    images.push(...image);
    const found = ritz(basis, images, wanted);
    if (basis.length >= most || converged(w, found)) return found;
    block = orthonormal(w.timesTransposed(image), basis).slice(0, most - basis.length);
    if (block.length === 0) return found;
  }
}

/** The best triplets within a basis: the SVD of W basis. */
function ritz(basis: Columns, images: Columns, wanted: number): Svd {
  const { q, r } = qr(images);
  const inner = jacobi(r);
  const count = Math.min(wanted, inner.s.length);
  const n = images[0]!.length;
  return {
    u: inner.u.slice(0, count).map((coefficients) => combined(q, coefficients, n)),
    s: inner.s.slice(0, count),
    v: inner.v.slice(0, count).map((coefficients) => combined(basis, coefficients, basis[0]!.length)),
  };
}

function converged(w: Products, { u, s, v }: Svd): boolean {
  const back = w.timesTransposed(u);
  return back.every((column, i) => {
    addScaled(column, v[i]!, -s[i]!);
    return Math.sqrt(dot(column, column)) <= 1e-11 * (s[0] ?? 0);
  });
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
