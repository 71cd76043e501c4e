export interface LionOptions {
  lr: number;
  beta1: number;
  beta2: number;
  weightDecay: number;
}

/** Lion (Chen et al. 2023, algorithm 2) in float64. Changes param and m. */
export function lionStep(param: Float64Array, m: Float64Array, grad: ArrayLike<number>, o: LionOptions): void {
  for (let i = 0; i < param.length; i++) {
    const g = grad[i]!;
    const direction = Math.sign(o.beta1 * m[i]! + (1 - o.beta1) * g);
    param[i] = param[i]! * (1 - o.lr * o.weightDecay) - o.lr * direction;
    m[i] = o.beta2 * m[i]! + (1 - o.beta2) * g;
  }
}
