import { LowrankError } from "../errors.js";
import type { ParameterGroup } from "../optim/optimizer.js";
import { loraPlusGroups } from "../peft/lora-plus.js";
import type { ResolvedArguments } from "./arguments.js";
import type { Trainable } from "./trainable.js";

export type GroupArguments = Pick<ResolvedArguments, "learningRate" | "weightDecay" | "loraplusLrRatio" | "loraplusLrEmbedding">;

/** Parameters that transformers' Trainer does not decay, by name (get_decay_parameter_names): norms and biases. */
const NOT_DECAYED = /bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)/i;

/**
 * Factor of the learning rate and decay of every parameter of a run: transformers' rule, or PEFT's LoRA+ where the arguments ask for it.
 * Throws INVALID_CONFIG for LoRA+ without an adapter.
 */
export function parameterGroups(
  args: GroupArguments,
  { arena, plan }: Pick<Trainable, "arena" | "plan">,
): Map<string, ParameterGroup> {
  const { learningRate: lr, weightDecay, loraplusLrRatio: ratio, loraplusLrEmbedding: embeddingLr } = args;
  if (ratio !== null) {
    if (!plan) throw new LowrankError("INVALID_CONFIG", "loraplus_lr_ratio goes with an adapter: no adapter trains here");
    return loraPlusGroups(plan, { lr, ratio, embeddingLr, weightDecay });
  }
  return new Map(arena.segments.map(({ name }) => [name, { lrScale: 1, weightDecay: NOT_DECAYED.test(name) ? 0 : weightDecay }]));
}
