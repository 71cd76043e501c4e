export interface SGDOptions {
  lr: number;
  momentum: number;
  dampening: number;
  nesterov: boolean;
  weightDecay: number;
}

/** torch.optim.SGD in float64; `step` counts from 1. Changes param and buffer. */
export function sgdStep(param: Float64Array, buffer: Float64Array, grad: ArrayLike<number>, step: number, o: SGDOptions): void {
  for (let i = 0; i < param.length; i++) {
    let g = (grad[i] as number) + o.weightDecay * (param[i] as number);
    if (o.momentum !== 0) {
      buffer[i] = step === 1 ? g : o.momentum * (buffer[i] as number) + (1 - o.dampening) * g;
      g = o.nesterov ? g + o.momentum * buffer[i]! : buffer[i]!;
    }
    param[i] = (param[i] as number) - o.lr * g;
  }
}
