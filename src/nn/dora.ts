/** DoRA (Liu et al. 2024): the matrix W + scale · b a, each row brought to a trained length, the magnitude. */
import { noGrad } from "../autograd/tape.js";
import { addInto, cast } from "../ops/copy.js";
import { scale } from "../ops/elementwise.js";
import { matmul, transpose } from "../ops/matmul.js";
import { multiply } from "../ops/multiply.js";
import { rowRms } from "../ops/rms-norm.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { Delta } from "./adapter-part.js";
import { biasRows } from "./lora-bias.js";

/** Below any square of a float32 weight that matters: a row of zeros keeps its length 0 without dividing by it. */
const EPS = 1e-37;

/** `table` (float32 [out, in]) is changed to W + scale · b a. */
export function addDelta(table: Tensor, { a, b, scale: factor }: Delta): Tensor {
  addInto(table, matmul(b, a), factor);
  return table;
}

/** `table` changed to the matrix whose rows DoRA measures: of a base without `offset`, with `delta`. */
export function directed(table: Tensor, offset: Delta | undefined, delta: Delta): Tensor {
  if (offset) addDelta(table, offset);
  return addDelta(table, delta);
}

/** The matrix whose rows DoRA measures in an embedding, whose table stands transposed in what PEFT means. The table stays as it is. */
export const directedTable = (table: Tensor, delta: Delta): Tensor => transpose(addDelta(cast(table, "float32"), delta));

/** magnitude / ‖row‖ for every row of a matrix float32 [n, k]; the lengths are constants for the gradient, as in PEFT. */
export function gain(magnitude: Tensor, matrix: Tensor): Tensor {
  const inverse = noGrad(() => scope(() => scale(rowRms(matrix, EPS).rstd, 1 / Math.sqrt(matrix.shape[1]!))));
  return multiply(magnitude, inverse);
}

/** The lengths of the rows, float32 [n]: where magnitudes start. */
export function rowLengths(matrix: Tensor): Tensor {
  const [n = 0, k = 0] = matrix.shape;
  return scope(() => {
    const { normed } = rowRms(matrix, EPS);
    const ones = Tensor.from(new Float32Array(k).fill(1), [k, 1], { device: matrix.device });
    // Σ x · x / rms = √k ‖x‖.
    return scale(matmul(multiply(matrix, normed), ones), 1 / Math.sqrt(k)).reshape(n);
  });
}

/** y float32 [rows, n] with column j times factors[j]. */
export function scaleColumns(y: Tensor, factors: Tensor): Tensor {
  const rows = y.shape[0]!;
  return multiply(y, biasRows(factors, 1, rows, 0, rows));
}
