import type { ParameterArena } from "./arena.js";
import { ArenaOptimizer, type MomentWidth, type OptimizerOptions } from "./optimizer.js";
import type { ArenaPart } from "./states.js";

export interface AdamOptions extends OptimizerOptions, MomentWidth {
  betas?: readonly [number, number];
  eps?: number;
  /** Keep the moments in the host's memory and copy them beside the passes, on a device that has memory of its own; elsewhere the same as without. */
  paged?: boolean;
}

export type AdamWOptions = AdamOptions;

/**
 * Adam (Kingma & Ba 2015; torch's arithmetic) over an arena: one launch for all parameters. Weight decay is times the parameter and
 * added to the clipped gradient.
 */
export class Adam extends ArenaOptimizer {
  protected readonly decoupledWeightDecay: boolean = false;
  readonly #options: Required<Pick<AdamOptions, "betas" | "eps" | "maxGradNorm">>;

  constructor(arena: ParameterArena, options: AdamOptions = {}) {
    const { betas = [0.9, 0.999], eps = 1e-8, maxGradNorm = 0, ...rest } = options;
    super("adam", arena, ["exp_avg", "exp_avg_sq"], rest);
    this.#options = { betas, eps, maxGradNorm };
  }

  protected override update(lr: number, part: ArenaPart): void {
    const { betas, eps, maxGradNorm } = this.#options;
    const { device } = this.arena;
    device.kernels.adamw(
      device.number,
      part.values.handle,
      part.gradients.handle,
      this.handle(part, "exp_avg"),
      this.handle(part, "exp_avg_sq"),
      this.handle(part, "state1"),
      this.handle(part, "absmax1"),
      this.handle(part, "state2"),
      this.handle(part, "absmax2"),
      this.handle(part, "maps"),
      this.handle(part, "header"),
      part.segments.handle,
      lr,
      betas[0],
      betas[1],
      eps,
      maxGradNorm,
      this.decoupledWeightDecay ? 1 : 0,
    );
  }
}

/** Adam with decoupled weight decay (Loshchilov & Hutter 2019): the parameter shrinks by lr * weightDecay, whatever its gradient. */
export class AdamW extends Adam {
  protected override readonly decoupledWeightDecay = true;
}
