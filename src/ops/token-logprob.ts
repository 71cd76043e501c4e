import { defineOp } from "../autograd/op.js";
import type { Weight } from "../quant/weight.js";
import { Tensor } from "../tensor/tensor.js";
import { fill } from "./copy.js";
import { enqueue, handleOf, mismatch, wordsOf } from "./kernel.js";

export interface TokenLogProbOptions {
  /** Label smoothing e: (1 - e) log p[label] + e * mean over the vocabulary of log p. */
  smoothing?: number;
  /** Adds -z * logsumexp². */
  zLoss?: number;
  /** c * tanh(logit / c); absent: none. */
  softcap?: number;
  /** Factor of the logits, before the cap. */
  logitScale?: number;
  /** Also return the entropy of each row's distribution (differentiable). */
  entropy?: boolean;
  /** Also return the most likely token of each row. */
  argmax?: boolean;
  /** Operands of the products rounded to bfloat16. */
  bf16?: boolean;
}

export interface TokenLogProb {
  /** float32 [T]: log-probability of the label; 0 where the label is -100. */
  value: Tensor;
  /** float32 [T], on request. */
  entropy: Tensor | undefined;
  /** int32 [T], on request; -1 where the label is -100. */
  argmax: Tensor | undefined;
}

/**
 * Output head fused with log-probabilities: hidden float32 [T, d], weight [vocab, d], labels int32 [T]. Only one chunk of logits
 * ever exists, and rows labelled -100 are dropped before the product. SFT, DPO, ORPO and KTO are small losses on it. With a
 * trainable dense weight its gradient is computed too, into the slice that a tied embedding shares. Without a weight `hidden` holds
 * the products themselves, [T, vocab].
 */
export function tokenLogProb(
  hidden: Tensor,
  weight: Weight | undefined,
  labels: Tensor,
  options: TokenLogProbOptions = {},
): TokenLogProb {
  const argmax = options.argmax ? Tensor.empty(labels.shape, { dtype: "int32", device: hidden.device }) : undefined;
  const [value, entropy] = tokenLogProbOp({ hidden, head: weight?.dense, labels }, { ...options, weight, argmaxInto: argmax });
  return { value: value!, entropy, argmax };
}

interface Attrs extends TokenLogProbOptions {
  weight: Weight | undefined;
  argmaxInto: Tensor | undefined;
}

interface Handles {
  value?: number;
  entropy?: number;
  argmax?: number;
  dxUnit?: number;
  dvalue?: number;
  dentropy?: number;
  dx?: number;
  dweight?: number;
}

/** The fields of `lr_head_args` in order. */
function words(h: Handles, hidden: Tensor, labels: Tensor, a: Attrs): Float64Array {
  return wordsOf([
    h.value ?? 0,
    h.entropy ?? 0,
    h.argmax ?? 0,
    h.dxUnit ?? 0,
    hidden.handle,
    a.weight?.handle ?? 0,
    labels.handle,
    a.softcap ?? 0,
    a.logitScale ?? 1,
    a.smoothing ?? 0,
    a.zLoss ?? 0,
    a.bf16 ? 1 : 0,
    h.dvalue ?? 0,
    h.dentropy ?? 0,
    h.dx ?? 0,
    h.dweight ?? 0,
  ]);
}

/** `unit` is d value / d hidden, kept when nothing else needs the logits again; else `hidden` is, and backward recomputes them. */
interface Saved {
  unit: Tensor | undefined;
  hidden: Tensor | undefined;
  head: Tensor | undefined;
  labels: Tensor;
}

const tokenLogProbOp = defineOp<{ hidden: Tensor; head: Tensor | undefined; labels: Tensor }, Attrs, Saved, Tensor[]>({
  name: "tokenLogProb",
  forward({ hidden, head, labels }, attrs, save, recording) {
    const { weight } = attrs;
    if (!(hidden.shape.length === 2 && (!weight || hidden.shape[1] === weight.inFeatures)))
      throw mismatch("tokenLogProb", "hidden", `[T, ${weight?.inFeatures ?? "vocab"}]`, hidden);
    if (!(labels.dtype === "int32" && labels.size === hidden.shape[0]))
      throw mismatch("tokenLogProb", "labels", `int32 [${hidden.shape[0]}]`, labels);
    const { device } = hidden;
    const value = Tensor.empty(labels.shape, { device });
    const entropy = attrs.entropy ? Tensor.empty(labels.shape, { device }) : undefined;
    const recompute = head?.requiresGrad === true || entropy !== undefined;
    const unit = recording && !recompute ? Tensor.empty(hidden.shape, { device }) : undefined;
    enqueue(value, (k, d) =>
      k.tokenLogprob(
        d,
        words(
          { value: value.handle, entropy: handleOf(entropy), argmax: handleOf(attrs.argmaxInto), dxUnit: handleOf(unit) },
          hidden,
          labels,
          attrs,
        ),
      ),
    );
    save({ unit, hidden: unit ? undefined : hidden, head: unit ? undefined : head, labels });
    return entropy ? [value, entropy] : [value];
  },
  backward([dvalue, dentropy], { unit, hidden, labels }, sink, inputs, attrs) {
    if (unit) {
      const { tensor, accumulate } = sink.into(inputs.hidden);
      enqueue(tensor, (k, d) => k.scaleRows(d, tensor.handle, unit.handle, dvalue!.handle, accumulate ? 1 : 0));
      return;
    }
    const dx = sink.needs(inputs.hidden) ? Tensor.empty(hidden!.shape, { device: hidden!.device }) : undefined;
    const head = sink.needs(inputs.head) ? sink.into(inputs.head!) : undefined;
    if (head && !head.accumulate) fill(head.tensor, 0);
    const rows = dvalue ?? Tensor.zeros(labels.shape, { device: labels.device });
    enqueue(labels, (k, d) =>
      k.tokenLogprobGrad(
        d,
        words(
          { dvalue: rows.handle, dentropy: handleOf(dentropy), dx: handleOf(dx), dweight: handleOf(head?.tensor) },
          hidden!,
          labels,
          attrs,
        ),
      ),
    );
    if (dx) sink.give(inputs.hidden, dx);
  },
});
