/** Normally distributed float32 numbers, the same for the same seed. */
export function gaussian(count: number, seed: number, std = 1): Float32Array {
  const next = uniform(seed);
  return Float32Array.from({ length: count }, () => std * Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next()));
}

/** Mulberry32: numbers in [0, 1). */
export function uniform(seed: number): () => number {
  let state = (seed * 0x9e3779b9) >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Largest difference, as a share of the largest expected magnitude. NaN where there is one. */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.NaN;
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] as number, expected[i] as number];
    if (a === e) {
      if (Number.isFinite(e)) largest = Math.max(largest, Math.abs(e));
      continue;
    }
    if (!(Number.isFinite(a) && Number.isFinite(e))) return Number.NaN;
    difference = Math.max(difference, Math.abs(a - e));
    largest = Math.max(largest, Math.abs(e));
  }
  return largest === 0 ? difference : difference / largest;
}

/**
 * Compares a gradient with central differences of a float64 loss at `x`, along random directions and along single coordinates.
 * Returns the largest error as a share of the largest derivative seen.
 */
export function gradientError(
  loss: (x: Float64Array) => number,
  x: ArrayLike<number>,
  gradient: ArrayLike<number>,
  seed: number,
): number {
  const next = uniform(seed);
  const directions: Float64Array[] = [];
  for (let i = 0; i < 4; i++) directions.push(Float64Array.from({ length: x.length }, () => 2 * next() - 1));
  for (let i = 0; i < Math.min(24, x.length); i++) {
    const one = new Float64Array(x.length);
    one[x.length <= 24 ? i : Math.floor(next() * x.length)] = 1;
    directions.push(one);
  }
  const step = 1e-5;
  let difference = 0;
  let largest = 1e-2; // a derivative that is zero leaves only rounding
  for (const direction of directions) {
    const at = (h: number) => loss(Float64Array.from(direction, (v, i) => (x[i] as number) + h * v));
    const expected = (at(step) - at(-step)) / (2 * step);
    const actual = direction.reduce((sum, v, i) => sum + v * (gradient[i] as number), 0);
    if (Number.isNaN(actual)) return Number.NaN;
    difference = Math.max(difference, Math.abs(actual - expected));
    largest = Math.max(largest, Math.abs(expected));
  }
  return difference / largest;
}

/** Σ a b in float64: the loss that gives `weights` as the gradient of `values`. */
export function weighted(values: ArrayLike<number>, weights: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += (values[i] as number) * (weights[i] as number);
  return sum;
}
