import { defineOp } from "../autograd/op.js";
import type { Sink } from "../autograd/tape.js";
import { Weight } from "../quant/weight.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch, wordsOf } from "./kernel.js";

/** a [n, r] · b [r, k] → [n, k], float32: the delta of a LoRA pair is matmul(B, A). Not for hot paths. */
export const matmul = (a: Tensor, b: Tensor): Tensor => matmulOp({ a, b }, undefined);

const matmulOp = defineOp<{ a: Tensor; b: Tensor }, undefined, { a: Tensor; b: Tensor }, Tensor>({
  name: "matmul",
  forward({ a, b }, _attrs, save) {
    if (!(a.shape.length === 2 && b.shape.length === 2 && a.shape[1] === b.shape[0]))
      throw mismatch("matmul", "b", `[${a.shape[1]}, k]`, b);
    const y = Tensor.empty([a.shape[0]!, b.shape[1]!], { device: a.device });
    save({ a, b });
    through(b, (weight) => {
      // dX = dY · W is that product, with b as the weight.
      enqueue(y, (k, d) => k.linearGrad(d, wordsOf([y.handle, y.handle, 0, 0, 0, 0, 0, 0, 0, 1, weight, 0, a.handle, 0, 0, 0])));
    });
    return y;
  },
  backward([dy], { a, b }, sink) {
    if (sink.needs(a)) sink.give(a, matmulTransposed(dy!, b));
    if (sink.needs(b)) addOuter(sink, b, a, dy!, false);
  },
});

/** a [n, k] · bᵀ, b [m, k] → [n, m], float32: what a linear without bias does, for a b that need not be a weight. */
export const matmulTransposed = (a: Tensor, b: Tensor, bf16 = false): Tensor => matmulTransposedOp({ a, b }, bf16);

const matmulTransposedOp = defineOp<{ a: Tensor; b: Tensor }, boolean, { a: Tensor; b: Tensor }, Tensor>({
  name: "matmulTransposed",
  forward({ a, b }, bf16, save) {
    if (!(a.shape.length === 2 && b.shape.length === 2 && a.shape[1] === b.shape[1]))
      throw mismatch("matmulTransposed", "b", `[m, ${a.shape[1]}]`, b);
    const y = Tensor.empty([a.shape[0]!, b.shape[0]!], { device: a.device });
    save({ a, b });
    const math = bf16 ? 1 : 0;
    through(b, (weight) => {
      enqueue(y, (k, d) => k.linear(d, wordsOf([a.handle, 0, 0, math, 0, 0, 0, 0, 0, 1, weight, 0, y.handle, 0, 0, 0])));
    });
    return y;
  },
  backward([dy], { a, b }, sink, _inputs, bf16) {
    if (sink.needs(a)) sink.give(a, matmul(dy!, b));
    if (sink.needs(b)) addOuter(sink, b, dy!, a, bf16);
  },
});

/** aᵀ for a [n, k], float32: exact, as it only multiplies with one and zero. Cheap where one side is short. */
export const transpose = (a: Tensor): Tensor => transposeOp({ a }, undefined);

const transposeOp = defineOp<{ a: Tensor }, undefined, undefined, Tensor>({
  name: "transpose",
  forward({ a }) {
    if (a.shape.length !== 2) throw mismatch("transpose", "a", "[n, k]", a);
    const [n = 0, k = 0] = a.shape;
    if (k <= n) return matmulTransposed(identity(k, a), a);
    const y = Tensor.zeros([k, n], { device: a.device });
    const one = identity(n, a);
    enqueue(y, (kernels, d) => kernels.linearDw(d, y.handle, 0, a.handle, one.handle, 0));
    return y;
  },
  backward([dy], _saved, sink, { a }) {
    sink.give(a, transpose(dy!));
  },
});

/** The gradient of `matrix` [m, k] is rowsᵀ x: rows [n, m], x [n, k]. */
function addOuter(sink: Sink, matrix: Tensor, rows: Tensor, x: Tensor, bf16: boolean): void {
  const { tensor, accumulate } = sink.into(matrix);
  enqueue(tensor, (k, d) => {
    if (!accumulate) k.fill(d, tensor.handle, 0);
    k.linearDw(d, tensor.handle, 0, rows.handle, x.handle, bf16 ? 1 : 0);
  });
}

/** What is enqueued holds the storage, not the weight. */
function through(matrix: Tensor, body: (weight: number) => void): void {
  const weight = Weight.borrow(matrix);
  try {
    body(weight.handle);
  } finally {
    weight.dispose();
  }
}

function identity(n: number, like: Tensor): Tensor {
  const values = new Float32Array(n * n);
  for (let i = 0; i < n; i++) values[i * n + i] = 1;
  return Tensor.from(values, [n, n], { device: like.device });
}
