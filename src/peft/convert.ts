/** An adapter that started from the base, as plain LoRA of twice the rank: [a; a₀] and [b, −b₀] (PEFT's path_initial_model_for_weight_conversion). */
import type { ParameterArena } from "../optim/arena.js";
import type { Tensor } from "../tensor/tensor.js";
import type { LoraConfig } from "./config.js";
import type { PlannedPair } from "./plan.js";

/** The same scales at twice the rank. */
export function doubledConfig(config: LoraConfig): LoraConfig {
  const alphaFactor = config.useRslora ? Math.SQRT2 : 2;
  const times = (pattern: Readonly<Record<string, number>>, factor: number) =>
    Object.fromEntries(Object.entries(pattern).map(([key, value]) => [key, value * factor]));
  return config.with({
    r: 2 * config.r,
    loraAlpha: alphaFactor * config.loraAlpha,
    rankPattern: times(config.rankPattern, 2),
    alphaPattern: times(config.alphaPattern, alphaFactor),
    initLoraWeights: true,
  });
}

/** Fills a pair of twice the rank in `to` from that in `from` and what it started from; where nothing was taken from the base, with zeros. */
export async function fillDoubled(
  to: ParameterArena,
  { a, b, rank, transposed }: PlannedPair,
  from: ParameterArena,
  start: { a: Tensor; b: Tensor } | undefined,
): Promise<void> {
  const read = (tensor: Tensor | undefined) => tensor?.readFloat32();
  // Of an embedding, the matrix whose rows are the rank is the one that lies as b.
  const [tall, wide] = transposed ? [a, b] : [b, a];
  const upper = (await read(from.get(wide)))!;
  const stacked = new Float32Array(2 * upper.length);
  stacked.set(upper);
  stacked.set((await read(start?.a)) ?? [], upper.length);
  const left = (await read(from.get(tall)))!;
  const right = await read(start?.b);
  const half = rank / 2;
  const beside = Float32Array.from({ length: 2 * left.length }, (_, at) => {
    const [i, j] = [Math.floor(at / rank), at % rank];
    return j < half ? left[i * half + j]! : right ? -right[i * half + j - half]! : 0;
  });
  to.get(wide).upload(stacked);
  to.get(tall).upload(beside);
}
