import { FourBitBuilder, type QuantizeOptions, Weight } from "../quant/weight.js";
import type { Device } from "../tensor/device.js";
import type { DType } from "../tensor/dtype.js";
import { Tensor } from "../tensor/tensor.js";
import type { TensorSpec } from "./layout.js";
import { ModelWeights } from "./loader.js";

/** Weights of these shapes as loading lays them out, with nothing in them: for a device that only counts memory. `dtype`: of what is not quantised. */
export function emptyWeights(
  specs: readonly TensorSpec[],
  device: Device,
  dtype: DType,
  quantize?: QuantizeOptions,
): ModelWeights {
  const weights = new ModelWeights();
  weights.dtype = dtype;
  try {
    for (const { name, shape, kind } of specs) {
      if (kind === "linear" && quantize) weights.weights.set(name, fourBit(shape as [number, number], device, quantize));
      else {
        const small = kind === "norm" || kind === "bias";
        const tensor = Tensor.empty(shape, { dtype: small ? "float32" : dtype, device });
        if (small || kind === "embedding") weights.tensors.set(name, tensor);
        else weights.weights.set(name, Weight.dense(tensor));
      }
    }
    return weights;
  } catch (error) {
    weights.dispose();
    throw error;
  }
}

function fourBit(shape: readonly [number, number], device: Device, options: QuantizeOptions): Weight {
  const builder = new FourBitBuilder(shape, device, options);
  try {
    return builder.finish();
  } catch (error) {
    builder.dispose();
    throw error;
  }
}
