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

export const dot = (a: Float64Array, b: Float64Array): number => {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!;
  return sum;
};

/** y += factor · x. */
export function addScaled(y: Float64Array, x: Float64Array, factor: number): void {
  for (let i = 0; i < y.length; i++) y[i]! += factor * x[i]!;
}

/** Σ columns[j] coefficients[j]. */
export function combined(columns: Columns, coefficients: ArrayLike<number>, length: number): Float64Array {
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
