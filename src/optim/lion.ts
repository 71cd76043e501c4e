import type { ParameterArena } from "./arena.js";
import { ArenaOptimizer, type MomentWidth, type OptimizerOptions } from "./optimizer.js";
import type { ArenaPart } from "./states.js";

/** Weight decay is decoupled. */
export interface LionOptions extends OptimizerOptions, MomentWidth {
  /** Weights of the moment in the direction, and in the next moment. Default 0.9 and 0.99. */
  betas?: readonly [number, number];
  /** As AdamW's. */
  paged?: boolean;
}

/** Lion (Chen et al. 2023, Symbolic Discovery of Optimization Algorithms) over an arena: every element moves by lr or not at all. One moment. */
export class Lion extends ArenaOptimizer {
  readonly #options: Required<Pick<LionOptions, "betas" | "maxGradNorm">>;

  constructor(arena: ParameterArena, options: LionOptions = {}) {
    const { betas = [0.9, 0.99], maxGradNorm = 0, ...rest } = options;
    super("lion", arena, ["exp_avg"], rest);
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
