import { Adafactor } from "../optim/adafactor.js";
import { Adam, AdamW } from "../optim/adamw.js";
import { Lion } from "../optim/lion.js";
import type { Optimizer } from "../optim/optimizer.js";
import { SGD } from "../optim/sgd.js";
import type { ResolvedArguments } from "./arguments.js";
import { type GroupArguments, parameterGroups } from "./parameter-groups.js";
import type { Trainable } from "./trainable.js";

interface OptimizerKind {
  family: "adamw" | "adam" | "lion" | "adafactor" | "sgd";
  /** Of the moments of parameters with at least 4096 elements. */
  bits: 32 | 8;
}

const kind = (family: OptimizerKind["family"], bits: 32 | 8 = 32): OptimizerKind => ({ family, bits });

/**
 * What `optim` may be: transformers' names, their short forms, and Adam with L2 decay. Paged ones compute the same; on a CPU states are
 * where they would be paged to.
 */
export const OPTIMIZERS = {
  adamw_torch: kind("adamw"),
  adamw_torch_fused: kind("adamw"),
  adamw_hf: kind("adamw"),
  adamw_8bit: kind("adamw", 8),
  adamw_bnb_8bit: kind("adamw", 8),
  paged_adamw: kind("adamw"),
  paged_adamw_32bit: kind("adamw"),
  paged_adamw_8bit: kind("adamw", 8),
  adam: kind("adam"),
  lion: kind("lion"),
  lion_32bit: kind("lion"),
  lion_8bit: kind("lion", 8),
  paged_lion: kind("lion"),
  paged_lion_32bit: kind("lion"),
  paged_lion_8bit: kind("lion", 8),
  adafactor: kind("adafactor"),
  sgd: kind("sgd"),
} as const satisfies Record<string, OptimizerKind>;

export type OptimizerName = keyof typeof OPTIMIZERS;

type OptimizerArguments = GroupArguments &
  Pick<ResolvedArguments, "optim" | "maxGradNorm" | "adamBeta1" | "adamBeta2" | "adamEpsilon">;

/** The optimizer of a run. Tables of embeddings keep 32-bit moments, as transformers leaves them. */
export function createOptimizer(
  args: OptimizerArguments,
  trainable: Pick<Trainable, "arena" | "embeddings" | "plan">,
): Optimizer {
  const { arena, embeddings } = trainable;
  const { family, bits } = OPTIMIZERS[args.optim];
  const common = { groups: parameterGroups(args, trainable), maxGradNorm: args.maxGradNorm };
  const betas = [args.adamBeta1, args.adamBeta2] as const;
  const width = { bits, keep32bit: embeddings, paged: args.optim.startsWith("paged_") };
  switch (family) {
    case "adamw":
      return new AdamW(arena, { ...common, ...width, betas, eps: args.adamEpsilon });
    case "adam":
      return new Adam(arena, { ...common, ...width, betas, eps: args.adamEpsilon });
    case "lion":
      return new Lion(arena, { ...common, ...width, betas });
    case "adafactor":
      return new Adafactor(arena, common);
    case "sgd":
      return new SGD(arena, common);
  }
}
