import { enqueue } from "../ops/kernel.js";
import { Weight } from "../quant/weight.js";
import type { Device } from "../tensor/device.js";
import { randomKey } from "../tensor/random.js";
import { Tensor } from "../tensor/tensor.js";
import type { DecoderConfig } from "./config.js";
import type { TensorSpec } from "./layout.js";
import { ModelWeights } from "./loader.js";

/**
 * Fresh float32 weights as transformers makes them: matrices and embedding normal(0, initializerRange), norms the identity, biases 0.
 * Every tensor has its own stream of numbers, so the same seed gives the same model on every machine.
 */
export function initialWeights(config: DecoderConfig, specs: readonly TensorSpec[], device: Device, seed: number): ModelWeights {
  const norm = config.normUnitOffset ? 0 : 1;
  const weights = new ModelWeights();
  try {
    for (const { name, shape, kind } of specs) {
      const tensor = Tensor.empty(shape, { device });
      // Registered before anything can fail, so that it is freed then.
      if (kind === "linear" || kind === "head") weights.weights.set(name, Weight.dense(tensor));
      else weights.tensors.set(name, tensor);
      enqueue(tensor, (k, d) => {
        if (kind === "norm" || kind === "bias") k.fill(d, tensor.handle, kind === "norm" ? norm : 0);
        else k.random(d, tensor.handle, 1, 0, config.initializerRange, randomKey(seed, name));
      });
    }
    return weights;
  } catch (error) {
    weights.dispose();
    throw error;
  }
}
