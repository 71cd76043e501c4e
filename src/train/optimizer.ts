import { AdamW } from "../optim/adamw.js";
import type { ParameterArena } from "../optim/arena.js";
import type { Optimizer } from "../optim/optimizer.js";
import { SGD } from "../optim/sgd.js";
import type { TrainConfig } from "./config-keys.js";

type Settings = Pick<TrainConfig, "optim" | "weightDecay" | "maxGradNorm" | "adamBeta1" | "adamBeta2" | "adamEpsilon">;

/** The optimizer that a configuration names, over the arena of what trains. */
export function createOptimizer(settings: Settings, arena: ParameterArena): Optimizer {
  const { optim, weightDecay, maxGradNorm, adamBeta1, adamBeta2, adamEpsilon } = settings;
  if (optim === "sgd") return new SGD(arena, { weightDecay, maxGradNorm });
  const paged = optim.startsWith("paged_");
  return new AdamW(arena, { weightDecay, maxGradNorm, betas: [adamBeta1, adamBeta2], eps: adamEpsilon, paged });
}
