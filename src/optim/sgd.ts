import { LowrankError } from "../errors.js";
import type { ParameterArena } from "./arena.js";
import { ArenaOptimizer, float32Only, type OptimizerOptions } from "./optimizer.js";
import type { ArenaPart } from "./states.js";

/** Weight decay is times the parameter, added to the clipped gradient. */
export interface SGDOptions extends OptimizerOptions {
  momentum?: number;
  /** The buffer takes 1 - dampening of each gradient but the first, which it takes whole. */
  dampening?: number;
  /** Needs a momentum and no dampening. */
  nesterov?: boolean;
}

/** torch.optim.SGD over an arena: one launch for all parameters. Without momentum it keeps no buffer. */
export class SGD extends ArenaOptimizer {
  readonly #options: Required<Omit<SGDOptions, "weightDecay" | "groups">>;

  /** Throws INVALID_ARGUMENT for a bfloat16 arena, for a negative momentum, and for nesterov without momentum or with dampening. */
  constructor(arena: ParameterArena, options: SGDOptions = {}) {
    const { momentum = 0, dampening = 0, nesterov = false, maxGradNorm = 0, ...rest } = options;
    const problems = [
      ...float32Only(arena),
      ...(momentum >= 0 ? [] : [`momentum must not be negative but is ${momentum}`]),
      ...(nesterov && !(momentum > 0) ? ["nesterov needs a momentum"] : []),
      ...(nesterov && dampening !== 0 ? [`nesterov allows no dampening but it is ${dampening}`] : []),
    ];
    if (problems.length > 0) throw new LowrankError("INVALID_ARGUMENT", `[sgd] ${problems.join("; ")}`);
    super("sgd", arena, momentum === 0 ? [] : ["momentum_buffer"], rest);
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
