import { Weight } from "../quant/weight.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, wordsOf } from "./kernel.js";
import { multiply } from "./multiply.js";

/** drop(x) with the mask that a linear's adapters use under the same key; x float32 [T, k]. */
export function dropout(x: Tensor, p: number, key: bigint): Tensor {
  return multiply(x, mask(x, p, key));
}

/** 1 / (1 - p) where an element is kept, else 0: what the backward of a linear makes of ones that come through an adapter. */
function mask({ shape, device }: Tensor, p: number, key: bigint): Tensor {
  const [rows = 0, k = 0] = shape;
  return scope(() => {
    const y = Tensor.empty(shape, { device });
    const zeros = Tensor.zeros([1, k], { device });
    const one = Tensor.from([1], [1, 1], { device });
    const ones = Tensor.from(new Float32Array(k).fill(1), [1, k], { device });
    const dy = Tensor.from(new Float32Array(rows).fill(1), [rows, 1], { device });
    const weight = Weight.borrow(zeros);
    try {
      const words = [y.handle, y.handle, 0, 0, p, Number(key & 0xffffffffn), Number(key >> 32n), 0, 0, 1];
      words.push(weight.handle, 0, dy.handle, 0, 0, 1, 0, rows, ones.handle, one.handle, 0, 0, 1);
      enqueue(y, (kernels, d) => kernels.linearGrad(d, wordsOf(words)));
    } finally {
      weight.dispose();
    }
    return y;
  });
}
