import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch, sameShape } from "./kernel.js";

/** silu(gate) * up (Shazeer 2020), float32 of one shape. */
export const swiglu = (gate: Tensor, up: Tensor): Tensor => swigluOp({ gate, up }, undefined);

const swigluOp = defineOp<{ gate: Tensor; up: Tensor }, undefined, { gate: Tensor; up: Tensor }, Tensor>({
  name: "swiglu",
  forward(inputs, _attrs, save) {
    const { gate, up } = inputs;
    if (!sameShape(gate, up)) throw mismatch("swiglu", "up", `[${gate.shape}] as gate`, up);
    save(inputs);
    const y = Tensor.empty(gate.shape, { device: gate.device });
    enqueue(y, (k, d) => k.swiglu(d, y.handle, gate.handle, up.handle));
    return y;
  },
  backward([dy], { gate, up }, sink) {
    const dgate = Tensor.empty(gate.shape, { device: gate.device });
    const dup = Tensor.empty(up.shape, { device: up.device });
    enqueue(dgate, (k, d) => k.swigluGrad(d, dgate.handle, dup.handle, dy!.handle, gate.handle, up.handle));
    sink.give(gate, dgate);
    sink.give(up, dup);
  },
});
