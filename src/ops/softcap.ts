import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue } from "./kernel.js";

/** cap * tanh(factor * x / cap), float32: keeps logits within ± cap (Gemma 2). */
export const softcap = (x: Tensor, cap: number, factor = 1): Tensor => softcapOp({ x }, { cap, factor });

const softcapOp = defineOp<{ x: Tensor }, { cap: number; factor: number }, { y: Tensor }, Tensor>({
  name: "softcap",
  forward({ x }, { cap, factor }, save) {
    const y = Tensor.empty(x.shape, { device: x.device });
    enqueue(y, (k, d) => k.softcap(d, y.handle, x.handle, factor, cap));
    save({ y });
    return y;
  },
  backward([dy], { y }, sink, { x }, { cap, factor }) {
    const dx = Tensor.empty(y.shape, { device: y.device });
    enqueue(dx, (k, d) => k.softcapGrad(d, dx.handle, dy!.handle, y.handle, factor, cap));
    sink.give(x, dx);
  },
});
