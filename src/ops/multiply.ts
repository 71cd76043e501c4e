import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch, sameShape } from "./kernel.js";

/** a · b element by element, both float32 of one shape. */
export const multiply = (a: Tensor, b: Tensor): Tensor => multiplyOp({ a, b }, undefined);

const multiplyOp = defineOp<{ a: Tensor; b: Tensor }, undefined, { a: Tensor; b: Tensor }, Tensor>({
  name: "multiply",
  forward({ a, b }, _attrs, save) {
    if (!sameShape(a, b)) throw mismatch("multiply", "b", `[${a.shape}] as a`, b);
    save({ a, b });
    const y = Tensor.empty(a.shape, { device: a.device });
    into(y, a, b, false);
    return y;
  },
  backward([dy], { a, b }, sink) {
    for (const [input, other] of [
      [a, b],
      [b, a],
    ] as const) {
      if (!sink.needs(input)) continue;
      const { tensor, accumulate } = sink.into(input);
      into(tensor, dy!, other, accumulate);
    }
  },
});

/** Every element as a row of its own, scaled. */
function into(y: Tensor, a: Tensor, b: Tensor, accumulate: boolean): void {
  const [flat, column] = [y.reshape(y.size, 1), a.reshape(a.size, 1)];
  const factors = b.reshape(b.size);
  enqueue(y, (k, d) => k.scaleRows(d, flat.handle, column.handle, factors.handle, accumulate ? 1 : 0));
  for (const view of [flat, column, factors]) view.dispose();
}
