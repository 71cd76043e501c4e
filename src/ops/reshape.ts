import { defineOp } from "../autograd/op.js";
import type { Tensor } from "../tensor/tensor.js";

/** The same elements in another shape, sharing storage; differentiable, unlike {@link Tensor.reshape}. */
export const reshape = (x: Tensor, ...shape: number[]): Tensor => reshapeOp({ x }, shape);

const reshapeOp = defineOp<{ x: Tensor }, readonly number[], undefined, Tensor>({
  name: "reshape",
  forward: ({ x }, shape) => x.reshape(...shape),
  backward([dy], _saved, sink, { x }) {
    sink.give(x, dy!);
  },
});
