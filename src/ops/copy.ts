import type { DType } from "../tensor/dtype.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch, sameShape } from "./kernel.js";

/** Writes x into y, converting between float32, bfloat16 and float16 (to nearest even). No gradient. */
export function copyInto(y: Tensor, x: Tensor): void {
  if (!sameShape(y, x)) throw mismatch("copyInto", "y", `[${x.shape}] as x`, y);
  enqueue(y, (k, d) => k.copy(d, y.handle, x.handle));
}

/** Writes a value into every element of y. No gradient. */
export function fill(y: Tensor, value: number): void {
  enqueue(y, (k, d) => k.fill(d, y.handle, value));
}

/** x as a new tensor of another floating dtype. No gradient. */
export function cast(x: Tensor, dtype: DType): Tensor {
  const y = Tensor.empty(x.shape, { dtype, device: x.device });
  copyInto(y, x);
  return y;
}

/** y += factor * x, float32 of one shape. No gradient. */
export function addInto(y: Tensor, x: Tensor, factor = 1): void {
  if (!sameShape(y, x)) throw mismatch("addInto", "y", `[${x.shape}] as x`, y);
  enqueue(y, (k, d) => k.axpy(d, y.handle, x.handle, factor));
}
