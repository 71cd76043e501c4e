/** 8-bit moments as bitsandbytes' CUDA kernels keep them, in float64 over blocks of 256. */

export function decode8(codes: ArrayLike<number>, absmax: ArrayLike<number>, map: ArrayLike<number>): Float64Array {
  return Float64Array.from(codes, (code, i) => map[code]! * absmax[Math.floor(i / 256)]!);
}

/** The nearest entry by trying them all; one whose sign is not the value's gives way to its neighbour. */
export function encode8(values: Float64Array, map: ArrayLike<number>): { codes: Uint8Array; absmax: Float64Array } {
  const absmax = new Float64Array(Math.ceil(values.length / 256));
  for (const [i, x] of values.entries()) absmax[i >> 8] = Math.max(absmax[i >> 8]!, Math.abs(x));
  const codes = Uint8Array.from(values, (value, i) => {
    const largest = absmax[i >> 8]!;
    if (largest === 0) return 0;
    let best = 0;
    for (let code = 1; code < 256; code++)
      if (Math.abs(map[code]! - value / largest) < Math.abs(map[best]! - value / largest)) best = code;
    if (value < 0 === map[best]! < 0) return best;
    return value > 0 ? best + 1 : best - 1;
  });
  return { codes, absmax };
}
