import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch } from "./kernel.js";

/** x float32 [T, Σ widths] cut along its columns: one [T, width] each. What a fused projection's output is made of. */
export const splitColumns = (x: Tensor, widths: readonly number[]): Tensor[] => splitColumnsOp({ x }, widths);

const splitColumnsOp = defineOp<{ x: Tensor }, readonly number[], undefined, Tensor[]>({
  name: "splitColumns",
  forward({ x }, widths) {
    const total = widths.reduce((sum, width) => sum + width, 0);
    if (!(x.shape.length === 2 && x.shape[1] === total)) throw mismatch("splitColumns", "x", `[T, ${total}]`, x);
    return widths.map((width, i) => {
      const y = Tensor.empty([x.shape[0]!, width], { device: x.device });
      enqueue(y, (k, d) => k.copyColumns(d, y.handle, x.handle, 0, beginOf(widths, i), width));
      return y;
    });
  },
  backward(dys, _saved, sink, { x }, widths) {
    const total = widths.reduce((sum, width) => sum + width, 0);
    const { device, shape } = dys.find((dy) => dy !== undefined)!;
    const whole = dys.every((dy) => dy !== undefined);
    const dx = (whole ? Tensor.empty : Tensor.zeros)([shape[0]!, total], { device });
    for (const [i, dy] of dys.entries())
      if (dy) enqueue(dx, (k, d) => k.copyColumns(d, dx.handle, dy.handle, beginOf(widths, i), 0, widths[i]!));
    sink.give(x, dx);
  },
});

const beginOf = (widths: readonly number[], i: number) => widths.slice(0, i).reduce((sum, width) => sum + width, 0);
