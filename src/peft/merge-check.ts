import { LowrankError } from "../errors.js";
import type { Embedding } from "../nn/embedding.js";
import { linear as forward, type Linear } from "../nn/linear.js";
import { add, scale, weightedSum } from "../ops/elementwise.js";
import { embedding as lookUp } from "../ops/embedding.js";
import { linearGroup } from "../ops/linear.js";
import { fillRandom } from "../ops/random.js";
import { Weight } from "../quant/weight.js";
import type { DType } from "../tensor/dtype.js";
import { randomKey } from "../tensor/random.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";

/** Random inputs that a merged weight is tried on: the mean square of what comes out estimates the square of the matrix's norm. */
const ROWS = 8;
/** What products in float32 may differ by, in another order of summation. */
const ARITHMETIC = 1e-4;

/** How merged weights answer random inputs, beside the base with its adapters. All are norms over the same outputs. */
export interface MergeDrift {
  /** Linears that were merged. */
  linears: number;
  /** Change that rounding to the stored form makes, as a share of the outputs: of all linears together, and of the worst. */
  rounding: number;
  worst: { path: string; rounding: number };
  /** Share of the adapters' change that the stored weights still make: near 1 where rounding is noise, less where it rounds the change away. NaN when the adapters change nothing. */
  kept: number;
}

/** Sums of squares, on the device until they are read. */
export interface Evidence {
  path: string;
  /** The form that stays: a dtype, undefined for 4 bits, and the elements of the matrix. */
  dtype: DType | undefined;
  elements: number;
  base: Tensor;
  effect: Tensor;
  /** What the merged weight changes, along what the adapters change. */
  kept: Tensor;
  arithmetic: Tensor;
  rounding: Tensor;
}

export const sumsOf = ({ base, effect, kept, arithmetic, rounding }: Evidence): Tensor[] => [
  base,
  effect,
  kept,
  arithmetic,
  rounding,
];

/**
 * Tries a merged linear on random inputs x [8, in]: `exact`, the sum in float32, and `merged`, the form that stays, against the base and
 * its adapters as a forward pass computes them, that is without ever adding b a to the weight.
 */
export function tryLinear(
  linear: Linear,
  names: readonly string[],
  exact: Tensor,
  merged: Weight,
  bias: Tensor | undefined,
  path: string,
): Evidence {
  const { weight: base } = linear;
  const form = { path, dtype: merged.dense?.dtype, elements: base.inFeatures * base.outFeatures };
  const sums = scope(() => {
    const x = Tensor.empty([ROWS, base.inFeatures], { device: base.device });
    fillRandom(x, { normal: { mean: 0, std: 1 } }, randomKey(0, path));
    const through = (weight: Weight, bias: Tensor | undefined): Tensor => linearGroup(x, [{ weight, bias, segments: [] }])[0]!;
    const sum = Weight.borrow(exact);
    try {
      const wanted = forward(x, [linear], { adapters: { names } })[0]!;
      return compare(through(base, linear.bias), wanted, through(sum, bias), through(merged, bias));
    } finally {
      sum.dispose();
    }
  });
  return { ...form, ...sums };
}

/** The same for an embedding, on the rows of random tokens, and of those that are trained alone. */
export function tryTable(embedding: Embedding, names: readonly string[], exact: Tensor, merged: Tensor, path: string): Evidence {
  const [vocab = 1] = exact.shape;
  const trained = embedding.adapters.of(names).flatMap(({ rows }) => rows?.ids ?? []);
  const random = Array.from({ length: ROWS }, (_, i) => Number(randomKey(0, path, i) % BigInt(vocab)));
  const ids = Int32Array.from([...trained, ...random].slice(0, ROWS));
  const sums = scope(() => {
    const index = Tensor.from(ids, [ROWS], { device: exact.device });
    const { float32 } = embedding.scale;
    const wanted = embedding.forward(index, { adapters: { names } });
    return compare(embedding.forward(index, {}), wanted, lookUp(exact, index, float32), lookUp(merged, index, float32));
  });
  return { path, dtype: merged.dtype, elements: exact.size, ...sums };
}

function compare(plain: Tensor, wanted: Tensor, exact: Tensor, stored: Tensor) {
  const less = (y: Tensor, other: Tensor): Tensor => add(y, scale(other, -1));
  const square = (y: Tensor): Tensor => weightedSum(y, 1, y);
  const effect = less(wanted, plain);
  return {
    base: square(plain),
    effect: square(effect),
    kept: weightedSum(less(stored, plain), 1, effect),
    arithmetic: square(less(exact, wanted)),
    rounding: square(less(stored, wanted)),
  };
}

/**
 * Reads what was tried.
 *
 * @throws LowrankError NON_FINITE, or NATIVE where merged weights differ from base and adapters by more than rounding explains
 */
export async function judgeMerged(tried: readonly Evidence[]): Promise<MergeDrift> {
  const total = { outputs: 0, effect: 0, kept: 0, rounding: 0 };
  const worst = { path: "", rounding: 0 };
  for (const { path, dtype, elements, ...sums } of tried) {
    const [base, effect, kept, arithmetic, rounding] = await Promise.all([
      sums.base.item(),
      sums.effect.item(),
      sums.kept.item(),
      sums.arithmetic.item(),
      sums.rounding.item(),
    ]);
    const outputs = base + effect;
    if (!Number.isFinite(base + effect + arithmetic + rounding)) {
      throw new LowrankError("NON_FINITE", `Merging gives values that are not finite in ${path}`, {
        hint: "The adapter is damaged or diverged, or its values do not fit the dtype; nothing was changed.",
      });
    }
    const [wrong, rounded] = [Math.sqrt(arithmetic / (outputs || 1)), Math.sqrt(rounding / (outputs || 1))];
    const explained = roundingOf(dtype, elements, outputs) + ARITHMETIC;
    if (wrong > ARITHMETIC || rounded > explained) {
      throw new LowrankError(
        "NATIVE",
        `The merged weight of ${path} differs from its base with the adapter by ${percent(Math.max(wrong, rounded))} of its outputs; rounding explains ${percent(wrong > ARITHMETIC ? ARITHMETIC : explained)}`,
        { hint: "Nothing was changed. Please report this with the adapter's configuration.", details: { path, wrong, rounded } },
      );
    }
    total.outputs += outputs;
    total.effect += effect;
    total.kept += kept;
    total.rounding += rounding;
    if (rounded >= worst.rounding) Object.assign(worst, { path, rounding: rounded });
  }
  return {
    linears: tried.length,
    rounding: Math.sqrt(total.rounding / (total.outputs || 1)),
    worst,
    kept: total.kept / total.effect,
  };
}

/** Largest relative change of a weight by rounding; for 4 bits, half a step of the code book where one weight of a block dwarfs the others. */
function roundingOf(dtype: DType | undefined, elements: number, outputs: number): number {
  switch (dtype) {
    case undefined:
      return 0.5;
    case "bfloat16":
      return 2 ** -8;
    case "float16": {
      // Below 2^-14 its steps are 2^-24 wide.
      const size = Math.sqrt(outputs / (ROWS * elements));
      return 2 ** -11 + 2 ** -24 / (size || 1);
    }
    default:
      return 2 ** -23;
  }
}

const percent = (share: number) => `${(100 * share).toPrecision(2)} %`;
