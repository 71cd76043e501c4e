import type { Activation } from "../../src/ops/glu.js";

type Numbers = ArrayLike<number>;

/** RMSNorm over rows of d = weight.length in float64. */
export function rmsNorm(x: Numbers, weight: Numbers, eps: number, unitOffset: boolean): { y: Float64Array; rstd: Float64Array } {
  const d = weight.length;
  const rows = x.length / d;
  const y = new Float64Array(x.length);
  const rstd = new Float64Array(rows);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let i = 0; i < d; i++) squares += (x[r * d + i] as number) ** 2;
    const scale = 1 / Math.sqrt(squares / d + eps);
    rstd[r] = scale;
    for (let i = 0; i < d; i++) y[r * d + i] = (x[r * d + i] as number) * scale * ((unitOffset ? 1 : 0) + (weight[i] as number));
  }
  return { y, rstd };
}

/** Rotates pairs (i, i + h) of the first 2h of d dimensions by position * invFreq (a float32 product). x [T, H, D]. */
export function rope(x: Numbers, positions: Numbers, invFreq: Numbers, heads: number, d: number, scaling: number): Float64Array {
  const y = Float64Array.from(x);
  const h = invFreq.length;
  for (let t = 0; t < positions.length; t++) {
    for (let i = 0; i < h; i++) {
      const angle = Math.fround((positions[t] as number) * (invFreq[i] as number));
      const [c, s] = [Math.cos(angle) * scaling, Math.sin(angle) * scaling];
      for (let head = 0; head < heads; head++) {
        const at = (t * heads + head) * d + i;
        const [a, b] = [x[at] as number, x[at + h] as number];
        y[at] = a * c - b * s;
        y[at + h] = b * c + a * s;
      }
    }
  }
  return y;
}

export function softcap(x: Numbers, factor: number, cap: number): Float64Array {
  return Float64Array.from(x, (value) => cap * Math.tanh((factor * value) / cap));
}

const ACTIVATIONS: Record<Activation, (x: number) => number> = {
  silu: (x) => x / (1 + Math.exp(-x)),
  gelu_tanh: (x) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
};

export function glu(gate: Numbers, up: Numbers, activation: Activation): Float64Array {
  return Float64Array.from({ length: gate.length }, (_, i) => ACTIVATIONS[activation](gate[i] as number) * (up[i] as number));
}
