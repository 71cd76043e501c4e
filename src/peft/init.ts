import { LoraPair } from "../nn/adapter-part.js";
import { addDelta, rowLengths } from "../nn/dora.js";
import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import { cast, copyInto } from "../ops/copy.js";
import { embedding } from "../ops/embedding.js";
import { matmul, transpose } from "../ops/matmul.js";
import { type Distribution, fillRandom } from "../ops/random.js";
import type { ParameterArena } from "../optim/arena.js";
import { randomKey } from "../tensor/random.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import type { LoraConfig } from "./config.js";
import { qr } from "./linalg.js";
import type { AdapterPlan, BaseModel, PlannedTensor } from "./plan.js";

/**
 * Fills the arena of a fresh adapter as PEFT does: LoRA's A random and B zero (for embeddings the other way round) or both random
 * (init_lora_weights false), copies and rows as the base has them. The same seed gives the same bits.
 */
export function initialize(model: BaseModel, config: LoraConfig, plan: AdapterPlan, arena: ParameterArena, seed: number): void {
  const modules = new Map(model.modules());
  for (const planned of plan.tensors) {
    if (config.isOrthogonal && (planned.role === "lora_A" || planned.role === "lora_B")) {
      scope(() => orthogonalStart(arena.get(planned.key), planned, seed));
      continue;
    }
    const tensor = arena.get(planned.key);
    const distribution = randomStart(planned, plan, config);
    if (distribution) fillRandom(tensor, distribution, randomKey(seed, planned.key));
    else scope(() => copyStart(tensor, planned, plan, arena, modules.get(planned.module)));
  }
}

/** How a matrix of LoRA is drawn; undefined where it is zero, as the arena is, or a copy. */
function randomStart({ key, shape, role }: PlannedTensor, plan: AdapterPlan, config: LoraConfig): Distribution | undefined {
  const random = config.initLoraWeights === false;
  const [rows = 1, columns = 1] = shape;
  const within = (bound: number): Distribution => ({ uniform: { low: -bound, high: bound } });
  switch (role) {
    case "lora_A": {
      const gaussian = String(config.initLoraWeights).toLowerCase() === "gaussian";
      // Kaiming uniform with a = √5 is U(±1/√fan_in), which a bias shares with the matrix before it.
      return gaussian ? { normal: { mean: 0, std: 1 / rows } } : within(1 / Math.sqrt(columns));
    }
    case "lora_B":
      return random ? within(1 / Math.sqrt(columns)) : undefined;
    case "lora_bias":
      return random ? within(1 / Math.sqrt(plan.pairs.find(({ bias }) => bias === key)!.rank)) : undefined;
    case "embedding_A":
      return random ? { normal: { mean: 0, std: 1 } } : undefined;
    case "embedding_B":
      return { normal: { mean: 0, std: 1 } };
    default:
      return undefined;
  }
}

/** Both matrices random, with b a = 0: they use the two halves of one orthogonal matrix of the rank's size. */
function orthogonalStart(to: Tensor, { shape, role, module }: PlannedTensor, seed: number): void {
  const [rank, other] = role === "lora_A" ? [shape[0]!, shape[1]!] : [shape[1]!, shape[0]!];
  const { device } = to;
  const uniform = (n: number) => Number(randomKey(seed, `${module}.orthogonal`, n) >> 11n) / 2 ** 53;
  const normal = (n: number) => Math.sqrt(-2 * Math.log(1 - uniform(2 * n))) * Math.cos(2 * Math.PI * uniform(2 * n + 1));
  const { q } = qr(Array.from({ length: rank }, (_, j) => Float64Array.from({ length: rank }, (_, i) => normal(j * rank + i))));
  // Rows 0, 2, … of q for A, rows 1, 3, … for B.
  const first = role === "lora_A" ? 0 : 1;
  const half = Float32Array.from({ length: (rank / 2) * rank }, (_, at) => q[at % rank]![2 * Math.floor(at / rank) + first]!);
  const rows = Tensor.from(half, [rank / 2, rank], { device });
  const random = Tensor.empty([other, rank / 2], { device });
  fillRandom(random, { normal: { mean: 0, std: 0.1 } }, randomKey(seed, `${module}.${role}`));
  const matrix = matmul(random, rows);
  copyInto(to, role === "lora_A" ? transpose(matrix) : matrix);
}

/** What starts as a tensor of the base, or as rows of one. */
function copyStart(
  to: Tensor,
  { key, role, module: name }: PlannedTensor,
  plan: AdapterPlan,
  arena: ParameterArena,
  module: unknown,
): void {
  if (role === "token_rows") {
    const { ids } = plan.parts.find(({ module, rows }) => module === name && rows?.key === key)!.rows!;
    copyInto(to, embedding(weightOf(module), Tensor.from(Int32Array.from(ids), [ids.length], { device: to.device })));
  } else if (role === "magnitude") {
    const { a, b, scale, transposed } = plan.pairs.find(({ magnitude }) => magnitude === key)!;
    const delta = new LoraPair(arena.get(a), arena.get(b), scale, 0, undefined, transposed).delta();
    const matrix = addDelta(cast(weightOf(module), "float32"), delta);
    // DoRA measures what makes one output: a row of a linear, a column of a table.
    copyInto(to, rowLengths(module instanceof Embedding ? transpose(matrix) : matrix));
  } else if (role === "saved_copy" || role === "bias") {
    copyInto(to, key.endsWith(".bias") ? (module as Linear).bias! : weightOf(module));
  }
}

/** The matrix of a linear, dequantised if need be, or the weight of any other module. */
export function weightOf(module: unknown): Tensor {
  if (module instanceof Linear) return module.weight.dense ?? module.weight.dequantize();
  return (module as Embedding).weight;
}
