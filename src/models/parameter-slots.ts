import { LowrankError } from "../errors.js";
import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import { RMSNorm } from "../nn/rms-norm.js";
import { Weight } from "../quant/weight.js";
import type { Tensor } from "../tensor/tensor.js";
import type { CausalLM } from "./causal-lm.js";

/** A tensor of a model and the way to put another one in its place. */
export interface ParameterSlot {
  /** Hugging Face's name, such as `model.norm.weight`. */
  path: string;
  /** What is there now, of any floating dtype. */
  tensor: Tensor;
  /**
   * Puts a float32 tensor of the same shape there and frees the former one. The model takes a reference of its own, so an arena
   * that owns the tensor must still dispose it.
   */
  replace(tensor: Tensor): void;
}

/** See {@link CausalLM.parameterSlots}. */
export function parameterSlots(model: CausalLM): ParameterSlot[] {
  const slots: ParameterSlot[] = [];
  const quantized: string[] = [];
  const add = (path: string, tensor: Tensor, put: (tensor: Tensor) => void) =>
    slots.push({
      path,
      tensor,
      replace(next) {
        put(next.retain());
        model.dtype = "float32";
        model.weightsChanged();
      },
    });
  for (const [path, module] of model.modules()) {
    if (module instanceof Embedding) {
      add(`${path}.weight`, module.weight, (tensor) => {
        if (model.lmHead.weight.borrowed) {
          model.lmHead.weight.dispose();
          model.lmHead.weight = Weight.borrow(tensor);
        }
        module.weight.dispose();
        module.weight = tensor;
      });
    } else if (module instanceof RMSNorm) {
      add(`${path}.weight`, module.weight, (tensor) => {
        module.weight.dispose();
        module.weight = tensor;
      });
    } else if (module instanceof Linear) {
      const { dense } = module.weight;
      if (!dense) quantized.push(path);
      else if (!module.weight.borrowed) {
        add(`${path}.weight`, dense, (tensor) => {
          module.weight.dispose();
          module.weight = Weight.dense(tensor);
        });
      }
      if (module.bias) {
        add(`${path}.bias`, module.bias, (tensor) => {
          module.bias?.dispose();
          module.bias = tensor;
        });
      }
    }
  }
  if (quantized.length > 0) {
    throw new LowrankError(
      "UNSUPPORTED",
      `${quantized.length} linears have 4-bit weights, which cannot be trained: ${quantized.slice(0, 3).join(", ")} …`,
      {
        hint: "Train an adapter, or load the model without loadIn4bit.",
      },
    );
  }
  return slots;
}
