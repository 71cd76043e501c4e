import { addProduct, type Matrix, matrix, transpose } from "./linear.js";

export interface HeadOptions {
  softcap: number;
  logitScale: number;
  smoothing: number;
  zLoss: number;
}

/** Values and entropies of the rows whose label is not -100; the others give 0. */
export function tokenLogprob(
  x: Matrix,
  w: Matrix,
  labels: ArrayLike<number>,
  o: HeadOptions,
): { value: Float64Array; entropy: Float64Array; argmax: Int32Array } {
  const products = addProduct(matrix(x.rows, w.rows), x, transpose(w));
  const [value, entropy] = [new Float64Array(x.rows), new Float64Array(x.rows)];
  const argmax = new Int32Array(x.rows).fill(-1);
  for (let t = 0; t < x.rows; t++) {
    const label = labels[t] as number;
    if (label === -100) continue;
    const logits = products.at.slice(t * w.rows, (t + 1) * w.rows).map((z) => {
      const scaled = o.logitScale * z;
      return o.softcap > 0 ? o.softcap * Math.tanh(scaled / o.softcap) : scaled;
    });
    const top = Math.max(...logits);
    const lse = top + Math.log(logits.reduce((sum, l) => sum + Math.exp(l - top), 0));
    const mean = logits.reduce((sum, l) => sum + (l - lse), 0) / w.rows;
    value[t] = (1 - o.smoothing) * ((logits[label] as number) - lse) + o.smoothing * mean - o.zLoss * lse ** 2;
    entropy[t] = logits.reduce((sum, l) => sum - Math.exp(l - lse) * (l - lse), 0);
    argmax[t] = logits.indexOf(top);
  }
  return { value, entropy, argmax };
}
