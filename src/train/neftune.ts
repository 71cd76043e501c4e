import type { PackedTokens } from "../data/collate.js";
import { fillRandom } from "../ops/random.js";
import type { Device } from "../tensor/device.js";
import { randomKey } from "../tensor/random.js";
import { Tensor } from "../tensor/tensor.js";

/** What is added to the embeddings of a micro-batch in training: float32 [T, hidden]. */
export type EmbeddingNoise = (tokens: PackedTokens, microStep: number, hiddenSize: number, device: Device) => Tensor;

/** How large NEFTune's noise is at most. The width is that of the padded batch, as transformers takes it: padding counts. */
export const neftuneScale = (alpha: number, width: number, hiddenSize: number): number => alpha / Math.sqrt(width * hiddenSize);

/** NEFTune (Jain et al. 2023): uniform noise in ± alpha / sqrt(width * hidden). The same seed and micro-step give the same. */
export function neftune(alpha: number, seed: number): EmbeddingNoise {
  return ({ inputIds, width }, microStep, hiddenSize, device) => {
    const noise = Tensor.empty([inputIds.length, hiddenSize], { device });
    const high = neftuneScale(alpha, width, hiddenSize);
    fillRandom(noise, { uniform: { low: -high, high } }, randomKey(seed, "neftune", microStep));
    return noise;
  };
}
