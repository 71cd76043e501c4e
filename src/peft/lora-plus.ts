import { LowrankError } from "../errors.js";
import type { ParameterGroup } from "../optim/optimizer.js";
import type { AdapterPlan, PlannedTensor } from "./plan.js";

export interface LoraPlusOptions {
  /** Learning rate of lora_A; schedules scale all groups alike. */
  lr: number;
  /** Learning rate of lora_B, of magnitudes and of other vectors, in units of `lr`. */
  ratio: number;
  /** Learning rate of LoRA on embeddings. Default 1e-6. */
  embeddingLr?: number;
  /** Of all but biases. Default 0. */
  weightDecay?: number;
}

/**
 * LoRA+ (Hayou, Ghosh & Yu 2024) by the rules of PEFT's create_loraplus_optimizer: learning rate and decay of each tensor of an adapter.
 * Throws INVALID_ARGUMENT for a learning rate of 0 or less, which nothing is in units of.
 */
export function loraPlusGroups({ tensors }: AdapterPlan, options: LoraPlusOptions): Map<string, ParameterGroup> {
  const { lr, ratio, embeddingLr = 1e-6, weightDecay = 0 } = options;
  if (!(lr > 0)) throw new LowrankError("INVALID_ARGUMENT", `LoRA+ needs a learning rate above 0, found ${lr}`);
  const scaleOf = ({ role, shape }: PlannedTensor) => {
    if (role === "embedding_A" || role === "embedding_B") return embeddingLr / lr;
    return role === "lora_B" || shape.length === 1 ? ratio : 1;
  };
  const decays = ({ key }: PlannedTensor) => !key.endsWith(".bias");
  return new Map(
    tensors.map((tensor) => [tensor.key, { lrScale: scaleOf(tensor), weightDecay: decays(tensor) ? weightDecay : 0 }]),
  );
}
