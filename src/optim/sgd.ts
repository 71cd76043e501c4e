import { LowrankError } from "../errors.js";
import type { ParameterArena } from "./arena.js";
import { ArenaOptimizer } from "./optimizer.js";
import type { ArenaPart } from "./states.js";

export interface SGDOptions {
  momentum?: number;
  /** The buffer takes 1 - dampening of each gradient but the first, which it takes whole. */
  dampening?: number;
  /** Needs a momentum and no dampening. */
  nesterov?: boolean;
  /** Times the parameter, added to the clipped gradient, for parameters that name none of their own. */
  weightDecay?: number;
  /** Gradients are multiplied by min(1, maxGradNorm / (norm + 1e-6)); 0 switches clipping off. */
  maxGradNorm?: number;
}

/** torch.optim.SGD over an arena: one launch for all parameters. Without momentum it keeps no buffer. */
export class SGD extends ArenaOptimizer {
  readonly #options: Required<Omit<SGDOptions, "weightDecay">>;

  /** Throws INVALID_ARGUMENT for a negative momentum, and for nesterov without momentum or with dampening. */
  constructor(arena: ParameterArena, options: SGDOptions = {}) {
    const { momentum = 0, dampening = 0, nesterov = false, weightDecay = 0, maxGradNorm = 0 } = options;
    const problems = [
      ...(momentum >= 0 ? [] : [`momentum must not be negative but is ${momentum}`]),
      ...(nesterov && !(momentum > 0) ? ["nesterov needs a momentum"] : []),
      ...(nesterov && dampening !== 0 ? [`nesterov allows no dampening but it is ${dampening}`] : []),
    ];
    if (problems.length > 0) throw new LowrankError("INVALID_ARGUMENT", `[sgd] ${problems.join("; ")}`);
    super("sgd", arena, momentum === 0 ? [] : ["momentum_buffer"], { weightDecay });
    this.#options = { momentum, dampening, nesterov, maxGradNorm };
  }

  protected override update(lr: number, part: ArenaPart): void {
    const { momentum, dampening, nesterov, maxGradNorm } = this.#options;
    const { device } = this.arena;
    device.kernels.sgd(
      device.number,
      part.values.handle,
      part.gradients.handle,
      this.handle(part, "momentum_buffer"),
      this.handle(part, "header"),
      part.segments.handle,
      lr,
      momentum,
      dampening,
      nesterov ? 1 : 0,
      maxGradNorm,
    );
  }
}
