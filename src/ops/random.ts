import type { Tensor } from "../tensor/tensor.js";
import { enqueue } from "./kernel.js";

/** Draws of philox4x32-10 under `key` (see tensor/random.ts), float32. No gradient. */
export type Distribution = { normal: { mean: number; std: number } } | { uniform: { low: number; high: number } };

/** Overwrites y with random numbers; the same key gives the same ones on every device. */
export function fillRandom(y: Tensor, distribution: Distribution, key: bigint): void {
  const normal = "normal" in distribution;
  const [a, b] = normal
    ? [distribution.normal.mean, distribution.normal.std]
    : [distribution.uniform.low, distribution.uniform.high];
  enqueue(y, (k, d) => k.random(d, y.handle, normal ? 1 : 0, a, b, key));
}
