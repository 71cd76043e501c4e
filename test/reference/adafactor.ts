export interface AdafactorOptions {
  lr: number;
  eps: readonly [number, number];
  clipThreshold: number;
  decayRate: number;
  beta1?: number;
  weightDecay: number;
  scaleParameter: boolean;
  relativeStep: boolean;
  warmupInit: boolean;
}

/** Second moments of one parameter: of rows and columns of its matrices, or of a vector's elements. */
export interface AdafactorState {
  m: Float64Array;
  row: Float64Array;
  col: Float64Array;
  v: Float64Array;
}

const rms = (x: Float64Array) => Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);

/** transformers.optimization.Adafactor in float64; `step` counts from 1. Changes param and state. */
export function adafactorStep(
  param: Float64Array,
  shape: readonly number[],
  s: AdafactorState,
  grad: ArrayLike<number>,
  step: number,
  o: AdafactorOptions,
): void {
  const relative = Math.min(o.warmupInit ? 1e-6 * step : 1e-2, 1 / Math.sqrt(step));
  const lr = (o.relativeStep ? relative : o.lr) * (o.scaleParameter ? Math.max(o.eps[1], rms(param)) : 1);
  const beta2 = 1 - step ** o.decayRate;
  const squares = Float64Array.from({ length: param.length }, (_, i) => grad[i]! ** 2 + o.eps[0]);
  let update: Float64Array;
  if (shape.length >= 2) {
    const [rows, cols] = shape.slice(-2) as [number, number];
    const matrices = param.length / rows / cols;
    const at = (m: number, r: number, c: number) => (m * rows + r) * cols + c;
    const range = (n: number) => Array.from({ length: n }, (_, i) => i);
    for (let m = 0; m < matrices; m++) {
      for (const r of range(rows)) {
        const mean = range(cols).reduce((sum, c) => sum + squares[at(m, r, c)]!, 0) / cols;
        s.row[m * rows + r] = beta2 * s.row[m * rows + r]! + (1 - beta2) * mean;
      }
      for (const c of range(cols)) {
        const mean = range(rows).reduce((sum, r) => sum + squares[at(m, r, c)]!, 0) / rows;
        s.col[m * cols + c] = beta2 * s.col[m * cols + c]! + (1 - beta2) * mean;
      }
    }
    update = Float64Array.from({ length: param.length }, (_, i) => {
      const [m, r, c] = [Math.floor(i / rows / cols), Math.floor(i / cols), i % cols];
      const mean = range(rows).reduce((sum, k) => sum + s.row[m * rows + k]!, 0) / rows;
      return grad[i]! / Math.sqrt(s.row[r]! / mean) / Math.sqrt(s.col[m * cols + c]!);
    });
  } else {
    for (const i of squares.keys()) s.v[i] = beta2 * s.v[i]! + (1 - beta2) * squares[i]!;
    update = Float64Array.from(s.v, (v, i) => grad[i]! / Math.sqrt(v));
  }
  const scale = lr / Math.max(1, rms(update) / o.clipThreshold);
  for (const i of param.keys()) {
    let move = update[i]! * scale;
    if (o.beta1 !== undefined) {
      s.m[i] = o.beta1 * s.m[i]! + (1 - o.beta1) * move;
      move = s.m[i]!;
    }
    param[i] = param[i]! * (1 - o.weightDecay * lr) - move;
  }
}
