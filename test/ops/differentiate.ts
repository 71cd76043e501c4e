import { valueAndGrad } from "../../src/autograd/tape.js";
import { weightedSum } from "../../src/ops/elementwise.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { gaussian } from "../reference/numeric.js";

export interface Parameter {
  values: ArrayLike<number>;
  shape: readonly number[];
}

export interface Differentiated {
  y: Float32Array;
  /** The loss's gradient with respect to y: normal numbers, the same for the same size. */
  dy: Float32Array;
  /** By name; an input that is used twice gets the sum. */
  gradients: Record<string, Float32Array>;
}

export const dyOf = (size: number): Float32Array => gaussian(size, 4242);

/** Forward of `op` on parameters, then backward of Σ dy y. What `op` makes is freed. */
export async function differentiate<N extends string>(
  parameters: Readonly<Record<N, Parameter>>,
  op: (tensors: Readonly<Record<N, Tensor>>) => Tensor,
): Promise<Differentiated> {
  const tensors = {} as Record<N, Tensor>;
  for (const name in parameters) {
    const { values, shape } = parameters[name];
    const tensor = Tensor.from(Float32Array.from(values), shape);
    tensor.requiresGrad = true;
    tensor.grad = Tensor.zeros(shape);
    tensors[name] = tensor;
  }
  let output: Tensor | undefined;
  scope(() =>
    valueAndGrad(() => {
      output = op(tensors).retain();
      return weightedSum(output, 1, Tensor.from(dyOf(output.size), output.shape));
    }),
  ).dispose();
  const y = await output!.readFloat32();
  output!.release();
  const gradients: Record<string, Float32Array> = {};
  for (const name in tensors) {
    gradients[name] = await tensors[name].grad!.readFloat32();
    tensors[name].grad!.dispose();
    tensors[name].dispose();
  }
  return { y, dy: dyOf(y.length), gradients };
}
