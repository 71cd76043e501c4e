/** Code books of bitsandbytes (functional.py: create_normal_map, create_fp4_map, create_dynamic_map), as float32. */

export type QuantType = "nf4" | "fp4";

/** NF4: quantiles of a normal distribution; QLoRA, appendix E. Index = code. */
export const NF4 = Float32Array.of(
  -1,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022833234,
  -0.09105003625154495,
  0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1,
);

const FP4_MAGNITUDES = [0, 0.0052083334885537624, 0.6666666865348816, 1, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25];

/** FP4: sign bit, then eight magnitudes. Index = code. */
export const FP4 = Float32Array.from([...FP4_MAGNITUDES, ...FP4_MAGNITUDES.map((x) => (x === 0 ? 0 : -x))]);

export const CODE_BOOKS: Readonly<Record<QuantType, Float32Array>> = { nf4: NF4, fp4: FP4 };

/** Number native code knows a 4-bit code by (`lr_code4`). */
export const CODE4_NUMBER: Readonly<Record<QuantType, number>> = { nf4: 0, fp4: 1 };

/**
 * The 256 ascending values of 8-bit dynamic quantisation (Dettmers et al., 8-bit Optimizers via Block-wise Quantization):
 * signed for momenta and nested absmax, unsigned for second moments. All arithmetic in float32, as the library's.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const f = Math.fround;
  const values: number[] = [0, 1];
  for (let i = 0; i < 7; i++) {
    const count = signed ? 2 ** i + 1 : 2 ** (i + 1) + 1;
    const first = f(0.1);
    const step = f(f(1 - first) / (count - 1));
    // torch.linspace works from both ends, with fused multiply-adds: one rounding.
    const boundary = (j: number) => (j < Math.trunc(count / 2) ? f(first + step * j) : f(1 - step * (count - 1 - j)));
    const power = f(10 ** (i - 6));
    for (let j = 0; j + 1 < count; j++) {
      const mean = f(f(boundary(j) + boundary(j + 1)) / 2);
      const value = f(power * mean);
      values.push(value);
      if (signed) values.push(-value);
    }
  }
  return Float32Array.from(values).sort();
}

export const DYNAMIC_SIGNED = dynamicMap(true);
