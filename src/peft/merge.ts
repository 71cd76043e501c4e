import { LowrankError } from "../errors.js";
import type { Linear } from "../nn/linear.js";
import { addInto, cast } from "../ops/copy.js";
import { weightedSum } from "../ops/elementwise.js";
import { matmul } from "../ops/matmul.js";
import { Weight } from "../quant/weight.js";
import type { DType } from "../tensor/dtype.js";
import { scope } from "../tensor/scope.js";

/**
 * The weight of a linear with the deltas of `names` added, W + Σ scale · B A, computed in float32. It keeps the form of the base (a 4-bit
 * weight is quantised again, which rounds the sum) unless `dtype` asks for a dense one. Undefined when no adapter touches the linear
 * and its form stays.
 */
export function mergedWeight(linear: Linear, names: readonly string[], dtype?: DType): Weight | undefined {
  const pairs = names.flatMap((name) => linear.adapters.pairs.get(name) ?? []);
  const { weight } = linear;
  if (pairs.length === 0 && (dtype === undefined || weight.dense?.dtype === dtype)) return undefined;
  return scope(() => {
    const sum = weight.dequantize("float32");
    for (const { a, b, scale } of pairs) addInto(sum, matmul(b, a), scale);
    const parts = dtype === undefined ? weight.fourBitParts : undefined;
    if (parts) {
      const { quantType, blocksize, nested } = parts;
      return Weight.quantize4bit(sum, { quantType, blocksize, doubleQuant: nested !== undefined, round: weight.round });
    }
    const target = dtype ?? weight.dense!.dtype;
    if (target === "float32") return Weight.dense(sum);
    return Weight.dense(cast(sum, target));
  });
}

/** Throws NON_FINITE when a weight holds NaN or infinity (PEFT's safe_merge). */
export async function assertFinite(weight: Weight, path: string): Promise<void> {
  using dense = weight.dequantize("float32");
  using square = weightedSum(dense, 1, dense);
  if (!Number.isFinite(await square.item())) {
    throw new LowrankError("NON_FINITE", `Merging gives values that are not finite in ${path}`, {
      hint: "The adapter is damaged or diverged; nothing was changed.",
    });
  }
}
