import type { ParameterArena } from "./arena.js";
import { ArenaOptimizer, type MomentWidth } from "./optimizer.js";
import type { ArenaPart } from "./states.js";

export interface LionOptions extends MomentWidth {
  /** Weights of the moment in the direction, and in the next moment. Default 0.9 and 0.99. */
  betas?: readonly [number, number];
  /** Decoupled, of parameters that name none of their own. */
  weightDecay?: number;
  /** Gradients are multiplied by min(1, maxGradNorm / (norm + 1e-6)); 0 switches clipping off. */
  maxGradNorm?: number;
  /** As AdamW's. */
  paged?: boolean;
}

/** Lion (Chen et al. 2023, Symbolic Discovery of Optimization Algorithms) over an arena: every element moves by lr or not at all. One moment. */
export class Lion extends ArenaOptimizer {
  readonly #options: Required<Pick<LionOptions, "betas" | "maxGradNorm">>;

  constructor(arena: ParameterArena, options: LionOptions = {}) {
    const { betas = [0.9, 0.99], weightDecay = 0, maxGradNorm = 0, ...rest } = options;
    super("lion", arena, ["exp_avg"], { weightDecay, ...rest });
    this.#options = { betas, maxGradNorm };
  }

  protected override update(lr: number, part: ArenaPart): void {
    const { betas, maxGradNorm } = this.#options;
    const { device } = this.arena;
    device.kernels.lion(
      device.number,
      part.values.handle,
      part.gradients.handle,
      this.handle(part, "exp_avg"),
      this.handle(part, "state1"),
      this.handle(part, "absmax1"),
      this.handle(part, "maps"),
      this.handle(part, "header"),
      part.segments.handle,
      lr,
      betas[0],
      betas[1],
      maxGradNorm,
    );
  }
}
