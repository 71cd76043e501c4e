import { LowrankError } from "../errors.js";
import type { Adaptable } from "../nn/adapter-slot.js";
import { addDelta, directed, directedTable, gain, scaleColumns } from "../nn/dora.js";
import { Embedding } from "../nn/embedding.js";
import { contentWith, Linear } from "../nn/linear.js";
import { RMSNorm } from "../nn/rms-norm.js";
import { adaptables } from "../nn/watch.js";
import { addInto, cast, copyInto } from "../ops/copy.js";
import { add, scale, scaleRows, weightedSum } from "../ops/elementwise.js";
import { multiply } from "../ops/multiply.js";
import { Weight } from "../quant/weight.js";
import type { DType } from "../tensor/dtype.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import { type Evidence, judgeMerged, type MergeDrift, sumsOf, tryLinear, tryTable } from "./merge-check.js";
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

/** What of a module merging replaces. */
interface Content {
  weight: Weight | Tensor;
  bias: Tensor | undefined;
}

/** A module that holds a sum, and what it held before. */
export interface Replaced {
  module: Adaptable;
  old: Content;
}

type Holder = Adaptable & { weight: Weight | Tensor; bias?: Tensor | undefined };

export const contentOf = (module: Adaptable): Content => ({ weight: (module as Holder).weight, bias: (module as Holder).bias });

function put(module: Adaptable, { weight, bias }: Content): void {
  Object.assign(module, module instanceof Linear ? { weight, bias } : { weight });
}

/** Frees what `kept` does not share. */
export function disposeContent({ weight, bias }: Content, kept: Content): void {
  if (weight !== kept.weight) weight.dispose();
  if (bias !== kept.bias) bias?.dispose();
}

/** Frees the sum and gives the module its own weight and bias again. */
export function putBack({ module, old }: Replaced): void {
  disposeContent(contentOf(module), old);
  put(module, old);
}

/**
 * Adds the adapters of `names` to the weights of a model, all or nothing, and tells what each module held. Every merged matrix is tried
 * on random inputs first. An embedding and a head that the adapters change in different ways are tied no longer. Throws UNSUPPORTED where
 * merging cannot be, NON_FINITE, NATIVE where a merged weight is not base plus adapters, INVALID_ARGUMENT when another merge came between.
 */
export async function mergeInto(base: BaseModel, names: readonly string[], options: MergeOptions): Promise<Replaced[]> {
  assertMergeable(base, names);
  const fresh: (Replaced & { content: Content; path: string })[] = [];
  const tried: Evidence[] = [];
  try {
    for (const [path, module] of adaptables(base)) {
      const content = mergedContent(module, names, options.dtype, path, tried, fresh);
      if (content) fresh.push({ module, content, path, old: contentOf(module) });
    }
    if (options.safeMerge) for (const { content, path } of fresh) await assertFinite(content, path);
    const drift = await judgeMerged(tried);
    options.onDrift?.(drift);
    await base.device.synchronize();
    if (fresh.some(({ module, old }) => contentOf(module).weight !== old.weight)) {
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
  for (const { module, content } of fresh) put(module, content);
  return fresh.map(({ module, old }) => ({ module, old }));
}

/** Throws UNSUPPORTED when an adapter adds a bias (lora_bias) to linears that have none to add it to. */
function assertMergeable(base: BaseModel, names: readonly string[]): void {
  const modules = adaptables(base).flatMap(([path, module]) => {
    if (!(module instanceof Linear)) return [];
    const parts = module.adapters.of(names);
    return !contentWith(module, parts)[1] && parts.some(({ pair }) => pair?.bias) ? [path] : [];
  });
  if (modules.length > 0) throw noBias(modules);
}

export const noBias = (modules: readonly string[]) =>
  new LowrankError(
    "UNSUPPORTED",
    `Cannot merge an adapter with lora_bias into linears without a bias of their own: ${modules.join(", ")}`,
    { hint: "Keep the adapter beside its base: loading it works.", details: { modules } },
  );

/** What a module holds with the adapters of `names` added; undefined when nothing changes. What a trial shows is added to `tried`. */
function mergedContent(
  module: Adaptable,
  names: readonly string[],
  dtype: DType | undefined,
  path: string,
  tried: Evidence[],
  before: readonly (Replaced & { content: Content })[],
): Content | undefined {
  const parts = module.adapters.of(names);
  if (module instanceof Embedding) {
    return parts.length === 0 ? undefined : { weight: mergedTable(module, names, dtype, path, tried), bias: undefined };
  }
  if (module instanceof RMSNorm) {
    const copy = parts.find(({ weight }) => weight)?.weight;
    return copy && { weight: cast(copy, "float32").keep(), bias: undefined };
  }
  if (!(module instanceof Linear)) return undefined;
  if (!module.weight.borrowed) return mergedLinear(module, names, dtype, path, tried);
  const embedding = before.find(({ old }) => old.weight === module.weight.dense);
  if (parts.every(({ follows }) => follows)) {
    const together = parts.length === (embedding?.module.adapters.of(names).length ?? 0);
    if (together) return embedding && { weight: Weight.borrow(embedding.content.weight as Tensor), bias: module.bias };
  }
  return mergedLinear(module, names, dtype, path, tried);
}

/**
 * Weight and bias of a linear with the adapters of `names` added, W + Σ scale · b a and b + Σ scale · lora_bias, computed in float32 and
 * in their order: DoRA turns what came before it too, by lengths measured on the base. The weight keeps the form of the base (a 4-bit one
 * is quantised again, which rounds the sum) unless `dtype` asks for a dense one. What no adapter touches is the linear's own tensor.
 * Undefined when nothing changes.
 */
export function mergedLinear(
  linear: Linear,
  names: readonly string[],
  dtype: DType | undefined,
  path: string,
  tried: Evidence[],
): Content | undefined {
  const parts = linear.adapters.of(names);
  const own = linear.weight;
  if (parts.length === 0 && !own.borrowed && (dtype === undefined || own.dense?.dtype === dtype)) return undefined;
  const [weight, bias] = contentWith(linear, parts);
  return scope(() => {
    let merged = own;
    let sumOfBiases = linear.bias;
    try {
      const sum = weight.dequantize("float32");
      replaceRows(sum, parts);
      let added: Tensor | undefined;
      for (const { pair, offset } of parts) {
        if (offset) addDelta(sum, offset.delta());
        if (!pair) continue;
        addDelta(sum, pair.delta());
        if (pair.bias) added = added ? add(added, scale(pair.bias, pair.scale)) : scale(pair.bias, pair.scale);
        if (!pair.magnitude) continue;
        const factors = gain(pair.magnitude, directed(weight.dequantize("float32"), offset?.delta(), pair.delta()));
        copyInto(sum, scaleRows(sum, factors));
        added &&= multiply(added, factors);
      }
      if (bias && (added || bias !== linear.bias)) {
        sumOfBiases = cast(bias, "float32").keep();
        if (added) addInto(sumOfBiases, added);
      }
      merged = inForm(sum, own, dtype);
      keepSums(tried, tryLinear(linear, names, sum, merged, sumOfBiases, path));
      return { weight: merged, bias: sumOfBiases };
    } catch (error) {
      disposeContent({ weight: merged, bias: sumOfBiases }, { weight: own, bias: linear.bias });
      throw error;
    }
  });
}

/** The table of an embedding with the adapters of `names` added. */
export function mergedTable(
  embedding: Embedding,
  names: readonly string[],
  dtype: DType | undefined,
  path: string,
  tried: Evidence[],
): Tensor {
  const parts = embedding.adapters.of(names);
  const own = embedding.weight;
  return scope(() => {
    const table = parts.find(({ weight }) => weight)?.weight ?? own;
    const sum = cast(table, "float32");
    replaceRows(sum, parts);
    for (const { pair } of parts) {
      if (!pair) continue;
      addDelta(sum, pair.delta());
      if (!pair.magnitude) continue;
      copyInto(sum, scaleColumns(sum, gain(pair.magnitude, directedTable(table, pair.delta()))));
    }
    const target = dtype ?? own.dtype;
    const merged = target === "float32" ? sum : cast(sum, target);
    keepSums(tried, tryTable(embedding, names, sum, merged, path));
    return merged.keep();
  });
}

/** Puts trained rows in their places, bit for bit. */
function replaceRows(table: Tensor, parts: readonly { rows: { ids: readonly number[]; values: Tensor } | undefined }[]): void {
  for (const { rows } of parts)
    for (const [i, id] of rows?.ids.entries() ?? []) copyInto(table.slice(id, id + 1), rows!.values.slice(i, i + 1));
}

function keepSums(tried: Evidence[], evidence: Evidence): void {
  for (const tensor of sumsOf(evidence)) tensor.keep();
  tried.push(evidence);
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
  using dense = weight instanceof Tensor ? cast(weight, "float32") : weight.dequantize("float32");
  for (const tensor of bias ? [dense, bias] : [dense]) {
    using square = weightedSum(tensor, 1, tensor);
    if (Number.isFinite(await square.item())) continue;
    throw new LowrankError("NON_FINITE", `Merging gives values that are not finite in ${path}`, {
      hint: "The adapter is damaged or diverged; nothing was changed.",
    });
  }
}
