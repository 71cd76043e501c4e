/** Modules made of a checkpoint's tensors by their path. */
import { Linear } from "../nn/linear.js";
import { RMSNorm } from "../nn/rms-norm.js";
import type { DecoderConfig } from "./config.js";
import type { ModelWeights } from "./loader.js";

/** With a bias where there is one. */
export function linearOf(weights: ModelWeights, path: string): Linear {
  return new Linear(weights.weight(`${path}.weight`), weights.tensors.get(`${path}.bias`));
}

export function normOf(weights: ModelWeights, path: string, config: DecoderConfig): RMSNorm {
  return new RMSNorm(weights.tensor(`${path}.weight`), config.rmsNormEps, config.normUnitOffset);
}
