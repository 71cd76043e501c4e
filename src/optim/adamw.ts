import type { Tensor } from "../tensor/tensor.js";
import type { ParameterArena } from "./arena.js";
import { ArenaOptimizer, type ParameterGroup } from "./optimizer.js";

export interface AdamWOptions {
  betas?: readonly [number, number];
  eps?: number;
  /** Decoupled weight decay of parameters that name none of their own. */
  weightDecay?: number;
  /** Gradients are multiplied by min(1, maxGradNorm / (norm + 1e-6)); 0 switches clipping off. */
  maxGradNorm?: number;
  /** Learning rates and decays of single parameters (LoRA+). */
  groups?: ReadonlyMap<string, ParameterGroup>;
}

/** AdamW (Loshchilov & Hutter 2019; torch's arithmetic) over an arena: one launch for all parameters, moments float32. */
export class AdamW extends ArenaOptimizer<"exp_avg" | "exp_avg_sq"> {
  readonly #options: Required<Omit<AdamWOptions, "weightDecay" | "groups">>;

  constructor(arena: ParameterArena, options: AdamWOptions = {}) {
    const { betas = [0.9, 0.999], eps = 1e-8, weightDecay = 0, maxGradNorm = 0, groups } = options;
    super("adamw", arena, ["exp_avg", "exp_avg_sq"], weightDecay, groups);
    this.#options = { betas, eps, maxGradNorm };
  }

  protected override update(lr: number, gradients: Tensor, segments: Tensor): void {
    const { betas, eps, maxGradNorm } = this.#options;
    const { values, device } = this.arena;
    device.kernels.adamw(
      device.number,
      values.handle,
      gradients.handle,
      this.state.exp_avg.handle,
      this.state.exp_avg_sq.handle,
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
