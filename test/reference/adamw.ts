export interface AdamWOptions {
  lr: number;
  beta1: number;
  beta2: number;
  eps: number;
  weightDecay: number;
  /** false: Adam, whose decay is added to the gradient. */
  decoupled?: boolean;
}

/** torch.optim.AdamW, or Adam, in float64; `step` counts from 1. Changes param, m and v. */
export function adamwStep(
  param: Float64Array,
  m: Float64Array,
  v: Float64Array,
  grad: ArrayLike<number>,
  step: number,
  o: AdamWOptions,
): void {
  const correction1 = 1 - o.beta1 ** step;
  const correction2 = Math.sqrt(1 - o.beta2 ** step);
  for (let i = 0; i < param.length; i++) {
    const decoupled = o.decoupled ?? true;
    const g = (grad[i] as number) + (decoupled ? 0 : o.weightDecay * (param[i] as number));
    m[i] = o.beta1 * (m[i] as number) + (1 - o.beta1) * g;
    v[i] = o.beta2 * (v[i] as number) + (1 - o.beta2) * g * g;
    const update = (m[i] as number) / correction1 / (Math.sqrt(v[i] as number) / correction2 + o.eps);
    param[i] = (param[i] as number) * (decoupled ? 1 - o.lr * o.weightDecay : 1) - o.lr * update;
  }
}
