import type { ParameterArena } from "./arena.js";
import { ArenaOptimizer, type ParameterGroup } from "./optimizer.js";
import { type ArenaPart, BLOCK } from "./states.js";

export interface AdamWOptions {
  betas?: readonly [number, number];
  eps?: number;
  /** Decoupled weight decay of parameters that name none of their own. */
  weightDecay?: number;
  /** Gradients are multiplied by min(1, maxGradNorm / (norm + 1e-6)); 0 switches clipping off. */
  maxGradNorm?: number;
  /** Learning rates and decays of single parameters (LoRA+). */
  groups?: ReadonlyMap<string, ParameterGroup>;
  /** Keep the moments in the host's memory and copy them beside the passes, on a device that has memory of its own; elsewhere the same as without. */
  paged?: boolean;
}

const moment = <Name extends string>(name: Name) => ({ name, dtype: "float32", perBlock: BLOCK }) as const;

/** AdamW (Loshchilov & Hutter 2019; torch's arithmetic) over an arena: one launch for all parameters, moments float32. */
export class AdamW extends ArenaOptimizer<"exp_avg" | "exp_avg_sq"> {
  readonly #options: Required<Pick<AdamWOptions, "betas" | "eps" | "maxGradNorm">>;

  constructor(arena: ParameterArena, options: AdamWOptions = {}) {
    const { betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, maxGradNorm = 0, groups, paged } = options;
    super("adamw", arena, [moment("exp_avg"), moment("exp_avg_sq")], { weightDecay, groups, paged });
    this.#options = { betas, eps, maxGradNorm };
  }

  protected override update(lr: number, { values, gradients, state, segments }: ArenaPart<"exp_avg" | "exp_avg_sq">): void {
    const { betas, eps, maxGradNorm } = this.#options;
    const { device } = this.arena;
    device.kernels.adamw(
      device.number,
      values.handle,
      gradients.handle,
      state.exp_avg.handle,
      state.exp_avg_sq.handle,
      this.state.header.handle,
      segments.handle,
      lr,
      betas[0],
      betas[1],
      eps,
      maxGradNorm,
    );
  }
}
