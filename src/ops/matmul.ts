import { Weight } from "../quant/weight.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch } from "./kernel.js";

/** a [n, r] · b [r, k] → [n, k], float32, without gradient: the delta of a LoRA pair is matmul(B, A). Not for hot paths. */
export function matmul(a: Tensor, b: Tensor): Tensor {
  if (!(a.shape.length === 2 && b.shape.length === 2 && a.shape[1] === b.shape[0]))
    throw mismatch("matmul", "b", `[${a.shape[1]}, k]`, b);
  const y = Tensor.empty([a.shape[0]!, b.shape[1]!], { device: a.device });
  // dX = dY · W is that product, with b as the weight.
  const weight = Weight.borrow(b);
  try {
    enqueue(y, (k, d) =>
      k.linearDx(d, Float64Array.of(y.handle, y.handle, 0, 0, 0, 0, 0, 1, weight.handle, 0, a.handle, 0, 0, 0)),
    );
  } finally {
    weight.dispose();
  }
  return y;
}
