import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { fill } from "./copy.js";
import { enqueue, handleOf, mismatch, sameShape } from "./kernel.js";

/** a + b, both float32 of one shape. */
export const add = (a: Tensor, b: Tensor): Tensor => addOp({ a, b }, undefined);

const addOp = defineOp<{ a: Tensor; b: Tensor }, undefined, undefined, Tensor>({
  name: "add",
  forward({ a, b }) {
    if (!sameShape(a, b)) throw mismatch("add", "b", `[${a.shape}] as a`, b);
    const y = Tensor.empty(a.shape, { device: a.device });
    enqueue(y, (k, d) => k.add(d, y.handle, a.handle, b.handle));
    return y;
  },
  backward([dy], _saved, sink, { a, b }) {
    sink.give(a, dy!);
    sink.give(b, dy!);
  },
});

/** factor * x, float32. */
export const scale = (x: Tensor, factor: number): Tensor => scaleOp({ x }, factor);

const scaleOp = defineOp<{ x: Tensor }, number, undefined, Tensor>({
  name: "scale",
  forward({ x }, factor) {
    const y = Tensor.zeros(x.shape, { device: x.device });
    enqueue(y, (k, d) => k.axpy(d, y.handle, x.handle, factor));
    return y;
  },
  backward([dy], _saved, sink, { x }, factor) {
    const { tensor, accumulate } = sink.into(x);
    enqueue(tensor, (k, d) => {
      if (!accumulate) k.fill(d, tensor.handle, 0);
      k.axpy(d, tensor.handle, dy!.handle, factor);
    });
  },
});

/** factor * Σ x (times `weights`, if given, which get no gradient), one float32 value; summed in float64 in a fixed order. */
export const weightedSum = (x: Tensor, factor = 1, weights?: Tensor): Tensor => weightedSumOp({ x, weights }, factor);

const weightedSumOp = defineOp<{ x: Tensor; weights: Tensor | undefined }, number, { weights: Tensor | undefined }, Tensor>({
  name: "weightedSum",
  forward({ x, weights }, factor, save) {
    if (weights && !sameShape(x, weights)) throw mismatch("weightedSum", "weights", `[${x.shape}] as x`, weights);
    save({ weights });
    const y = Tensor.empty([1], { device: x.device });
    enqueue(y, (k, d) => k.dot(d, y.handle, x.handle, handleOf(weights), factor, 0));
    return y;
  },
  backward([dy], { weights }, sink, { x }, factor) {
    // d x = factor * dy * weights: one row, scaled by the one value dy.
    const { tensor, accumulate } = sink.into(x);
    const constant = weights ?? Tensor.empty(x.shape, { device: x.device });
    if (!weights) fill(constant, 1);
    const factorTimesDy = scale(dy!, factor);
    enqueue(tensor, (k, d) => k.scaleRows(d, tensor.handle, constant.handle, factorTimesDy.handle, accumulate ? 1 : 0));
  },
});

/** Row i of x float32 [n, k] times factors[i]. No gradient. */
export function scaleRows(x: Tensor, factors: Tensor): Tensor {
  const y = Tensor.empty(x.shape, { device: x.device });
  enqueue(y, (k, d) => k.scaleRows(d, y.handle, x.handle, factors.handle, 0));
  return y;
}
