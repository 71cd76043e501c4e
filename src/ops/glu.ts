import { defineOp } from "../autograd/op.js";
import { NATIVE_ACTIVATIONS } from "../native/surface.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch, sameShape } from "./kernel.js";

/** silu: x · sigmoid(x). gelu_tanh: GELU by its tanh formula (`gelu_pytorch_tanh` of transformers). */
export type Activation = (typeof NATIVE_ACTIVATIONS)[number];

/** activation(gate) * up, a gated linear unit (Shazeer 2020), float32 of one shape. */
export const glu = (gate: Tensor, up: Tensor, activation: Activation): Tensor => gluOp({ gate, up }, activation);

const gluOp = defineOp<{ gate: Tensor; up: Tensor }, Activation, { gate: Tensor; up: Tensor }, Tensor>({
  name: "glu",
  forward(inputs, activation, save) {
    const { gate, up } = inputs;
    if (!sameShape(gate, up)) throw mismatch("glu", "up", `[${gate.shape}] as gate`, up);
    save(inputs);
    const y = Tensor.empty(gate.shape, { device: gate.device });
    enqueue(y, (k, d) => k.glu(d, y.handle, gate.handle, up.handle, codeOf(activation)));
    return y;
  },
  backward([dy], { gate, up }, sink, _inputs, activation) {
    const dgate = Tensor.empty(gate.shape, { device: gate.device });
    const dup = Tensor.empty(up.shape, { device: up.device });
    const code = codeOf(activation);
    enqueue(dgate, (k, d) => k.gluGrad(d, dgate.handle, dup.handle, dy!.handle, gate.handle, up.handle, code));
    sink.give(gate, dgate);
    sink.give(up, dup);
  },
});

/** What kernels call it. */
export const codeOf = (activation: Activation) => NATIVE_ACTIVATIONS.indexOf(activation);
