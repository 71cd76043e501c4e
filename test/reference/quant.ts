/** Nearest code by sorted values: number of midpoints strictly below `x` (NaN counts as above all), in float32. */
export function rank(x: number, ascending: ArrayLike<number>): number {
  let below = 0;
  for (let i = 0; i + 1 < ascending.length; i++) {
    const midpoint = Math.fround(Math.fround((ascending[i] as number) + (ascending[i + 1] as number)) * 0.5);
    if (!(x <= midpoint)) below++;
  }
  return below;
}

/** bitsandbytes' 4-bit block quantisation, as formats.md states it. `order` lists the codes in ascending order of their values. */
export function quantize4bit(
  x: ArrayLike<number>,
  values: ArrayLike<number>,
  order: readonly number[],
  blocksize: number,
): { codes: Uint8Array; absmax: Float32Array } {
  const n = x.length;
  const tiny = Math.fround(1e-38);
  const ascending = order.map((code) => values[code] as number);
  const absmax = new Float32Array(Math.ceil(n / blocksize));
  const nibbles = new Uint8Array(n + (n % 2));
  if (n % 2) nibbles[n] = order[rank(0, ascending)] as number;
  for (let b = 0; b < absmax.length; b++) {
    const end = Math.min(n, (b + 1) * blocksize);
    const full = end - b * blocksize === blocksize;
    let largest = 0;
    for (let i = b * blocksize; i < end; i++) largest = Math.max(largest, Math.abs(x[i] as number));
    const divisor = Math.max(largest, tiny);
    absmax[b] = full ? largest : divisor;
    const inverse = Math.fround(1 / divisor);
    for (let i = b * blocksize; i < end; i++) {
      const scaled = full ? Math.fround((x[i] as number) * inverse) : Math.fround((x[i] as number) / divisor);
      nibbles[i] = order[rank(scaled, ascending)] as number;
    }
  }
  return {
    codes: Uint8Array.from(
      { length: nibbles.length / 2 },
      (_, i) => ((nibbles[2 * i] as number) << 4) | (nibbles[2 * i + 1] as number),
    ),
    absmax,
  };
}

/** Binary search of bitsandbytes' CUDA kernels (csrc/kernels.cu, dQuantize): the pivot ends on an even code, which wins ties. */
export function nearest8(x: number, map: ArrayLike<number>): number {
  let [pivot, upper, lower] = [127, 255, 0];
  for (let i = 64; i > 0; i >>= 1) {
    if (x > (map[pivot] as number)) {
      lower = pivot;
      pivot += i;
    } else {
      upper = pivot;
      pivot -= i;
    }
  }
  const value = map[pivot] as number;
  const middle = (other: number) => Math.fround(Math.fround((map[other] as number) + value) * 0.5);
  if (x > value) return x > middle(upper) ? upper : pivot;
  return x < middle(lower) ? lower : pivot;
}

/** 8-bit blockwise quantisation of bitsandbytes' CUDA kernels: nearest map entry to x * (1 / absmax); an all-zero block is code 0. */
export function quantize8bit(
  x: ArrayLike<number>,
  map: ArrayLike<number>,
  blocksize: number,
): { codes: Uint8Array; absmax: Float32Array } {
  const absmax = new Float32Array(Math.ceil(x.length / blocksize));
  const codes = new Uint8Array(x.length);
  for (let i = 0; i < x.length; i++) {
    const b = Math.floor(i / blocksize);
    absmax[b] = Math.max(absmax[b] as number, Math.abs(x[i] as number));
  }
  for (let i = 0; i < x.length; i++) {
    const largest = absmax[Math.floor(i / blocksize)] as number;
    codes[i] = largest === 0 ? 0 : nearest8(Math.fround((x[i] as number) * Math.fround(1 / largest)), map);
  }
  return { codes, absmax };
}
