import { LowrankError } from "../errors.js";
import { Linear } from "../nn/linear.js";
import { addInto, cast } from "../ops/copy.js";
import { weightedSum } from "../ops/elementwise.js";
import { matmul } from "../ops/matmul.js";
import { Weight } from "../quant/weight.js";
import type { DType } from "../tensor/dtype.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import { type Evidence, judgeMerged, type MergeDrift, sumsOf, tryMerged } from "./merge-check.js";
import type { BaseModel } from "./plan.js";

export interface MergeOptions {
  /** Names to merge; the active ones when absent. */
  adapterNames?: readonly string[];
  /** Check every merged weight for NaN and infinity first. */
  safeMerge?: boolean;
  /** Dense weights of this dtype instead of the base's own form: no second rounding of a 4-bit base. */
  dtype?: "float32" | "bfloat16" | "float16";
  /** Told how far the merged weights are from base and adapters, before the model changes. */
  onDrift?: (drift: MergeDrift) => void;
}

/** What of a linear merging replaces. */
interface Content {
  weight: Weight;
  bias: Tensor | undefined;
}

/** A linear that holds a sum, and what it held before. */
export interface Replaced {
  linear: Linear;
  old: Content;
}

export const contentOf = ({ weight, bias }: Linear): Content => ({ weight, bias });

/** Frees what `kept` does not share. */
export function disposeContent({ weight, bias }: Content, kept: Content): void {
  weight.dispose();
  if (bias !== kept.bias) bias?.dispose();
}

/** Frees the sum and gives the linear its own weight and bias again. */
export function putBack({ linear, old }: Replaced): void {
  disposeContent(contentOf(linear), old);
  Object.assign(linear, old);
}

/**
 * Adds the adapters of `names` to the weights of a model, all or nothing, and tells what each linear held. Every merged weight is tried
 * on random inputs first. Throws UNSUPPORTED where merging cannot be, NON_FINITE, NATIVE where a merged weight is not base plus adapters,
 * INVALID_ARGUMENT when another merge came between.
 */
export async function mergeInto(base: BaseModel, names: readonly string[], options: MergeOptions): Promise<Replaced[]> {
  assertMergeable(base, names);
  const fresh: (Replaced & { content: Content; path: string })[] = [];
  const tried: Evidence[] = [];
  try {
    for (const [path, linear] of base.modules()) {
      // A tied head reads the embedding, which stays.
      if (!(linear instanceof Linear) || linear.weight.borrowed) continue;
      const content = mergedContent(linear, names, options.dtype, path, tried);
      if (content) fresh.push({ linear, content, path, old: contentOf(linear) });
    }
    if (options.safeMerge) for (const { content, path } of fresh) await assertFinite(content, path);
    const drift = await judgeMerged(tried);
    options.onDrift?.(drift);
    await base.device.synchronize();
    if (fresh.some(({ linear, old }) => linear.weight !== old.weight)) {
      throw new LowrankError("INVALID_ARGUMENT", "The weights were merged by another call meanwhile", {
        hint: "Await one merge before the next.",
      });
    }
  } catch (error) {
    for (const { content, old } of fresh) disposeContent(content, old);
    throw error;
  } finally {
    for (const evidence of tried) for (const sum of sumsOf(evidence)) sum.dispose();
  }
  for (const { linear, content } of fresh) Object.assign(linear, content);
  return fresh.map(({ linear, old }) => ({ linear, old }));
}

/** Throws UNSUPPORTED when an adapter adds a bias (lora_bias) to linears that have none to add it to. */
function assertMergeable(base: BaseModel, names: readonly string[]): void {
  const modules = [...base.modules()].flatMap(([path, module]) => {
    if (!(module instanceof Linear) || module.bias) return [];
    return names.some((name) => module.adapters.pairs.get(name)?.bias) ? [path] : [];
  });
  if (modules.length === 0) return;
  throw new LowrankError(
    "UNSUPPORTED",
    `Cannot merge an adapter with lora_bias into linears without a bias of their own: ${modules.join(", ")}`,
    { hint: "Keep the adapter beside its base: loading it works.", details: { modules } },
  );
}

/**
 * Weight and bias of a linear with the adapters of `names` added: see {@link mergedWeight}; the bias is b + Σ scale · lora_bias. What
 * no adapter touches is the linear's own tensor. Undefined when nothing changes.
 */
function mergedContent(
  linear: Linear,
  names: readonly string[],
  dtype: DType | undefined,
  path: string,
  tried: Evidence[],
): Content | undefined {
  const weight = mergedWeight(linear, names, dtype, path, tried);
  if (!weight) return undefined;
  const biased = names.flatMap((name) => linear.adapters.pairs.get(name) ?? []).filter(({ bias }) => bias);
  const { bias } = linear;
  if (!bias || biased.length === 0) return { weight, bias };
  try {
    const sum = scope(() => cast(bias, "float32")).keep();
    for (const pair of biased) addInto(sum, pair.bias!, pair.scale);
    return { weight, bias: sum };
  } catch (error) {
    weight.dispose();
    throw error;
  }
}

/**
 * The weight of a linear with the deltas of `names` added, W + Σ scale · B A, computed in float32. It keeps the form of the base (a 4-bit
 * weight is quantised again, which rounds the sum) unless `dtype` asks for a dense one. Undefined when no adapter touches the linear
 * and its form stays. What a trial of it shows is added to `tried`.
 */
function mergedWeight(
  linear: Linear,
  names: readonly string[],
  dtype: DType | undefined,
  path: string,
  tried: Evidence[],
): Weight | undefined {
  const pairs = names.flatMap((name) => linear.adapters.pairs.get(name) ?? []);
  const { weight } = linear;
  if (pairs.length === 0 && (dtype === undefined || weight.dense?.dtype === dtype)) return undefined;
  return scope(() => {
    const sum = weight.dequantize("float32");
    for (const { a, b, scale } of pairs) addInto(sum, matmul(b, a), scale);
    const merged = inForm(sum, weight, dtype);
    try {
      const evidence = tryMerged(weight, sum, merged, pairs, path);
      for (const tensor of sumsOf(evidence)) tensor.keep();
      tried.push(evidence);
    } catch (error) {
      merged.dispose();
      throw error;
    }
    return merged;
  });
}

/** The sum in the form of the weight it replaces, or as a dense one of `dtype`. */
function inForm(sum: Tensor, { fourBitParts, dense, round }: Weight, dtype: DType | undefined): Weight {
  if (fourBitParts && dtype === undefined) {
    const { quantType, blocksize, nested } = fourBitParts;
    return Weight.quantize4bit(sum, { quantType, blocksize, doubleQuant: nested !== undefined, round });
  }
  const target = dtype ?? dense!.dtype;
  return Weight.dense(target === "float32" ? sum : cast(sum, target));
}

/** Throws NON_FINITE when a weight or a bias holds NaN or infinity (PEFT's safe_merge). */
async function assertFinite({ weight, bias }: Content, path: string): Promise<void> {
  using dense = weight.dequantize("float32");
  for (const tensor of bias ? [dense, bias] : [dense]) {
    using square = weightedSum(tensor, 1, tensor);
    if (Number.isFinite(await square.item())) continue;
    throw new LowrankError("NON_FINITE", `Merging gives values that are not finite in ${path}`, {
      hint: "The adapter is damaged or diverged; nothing was changed.",
    });
  }
}
