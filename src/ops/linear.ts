import { defineOp } from "../autograd/op.js";
import type { Sink } from "../autograd/tape.js";
import type { Weight } from "../quant/weight.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, handleOf, mismatch, wordsOf } from "./kernel.js";

/** Rows [rowBegin, rowEnd) use one LoRA pair: a [r, in], b [out, r], float32. */
export interface LoraSegment {
  rowBegin: number;
  rowEnd: number;
  a: Tensor;
  b: Tensor;
  scale: number;
}

/** One linear of a group: y = x Wᵀ + bias + Σ scale (drop(x) aᵀ) bᵀ, the last on the rows of each segment. */
export interface LinearLayer {
  weight: Weight;
  bias: Tensor | undefined;
  /** Ascending, not overlapping. */
  segments: readonly LoraSegment[];
}

export interface LinearOptions {
  /** Probability of dropping an element of x before `a`, and the key of this call's mask; one mask serves the group. */
  dropout?: { p: number; key: bigint };
  /** Operands of the products rounded to bfloat16. */
  bf16?: boolean;
}

/**
 * Linears that read the same x float32 [T, in] (q, k, v; gate, up) in one call → one float32 [T, out] each. Frozen weights may be dense
 * or 4-bit; a dense float32 weight or bias that is a parameter gets its gradient, and so do a and b.
 */
export function linearGroup(x: Tensor, layers: readonly LinearLayer[], options: LinearOptions = {}): Tensor[] {
  return linearOp(
    {
      x,
      weights: layers.map((layer) => layer.weight.dense),
      biases: layers.map((layer) => layer.bias),
      pairs: layers.flatMap((layer) => layer.segments.flatMap(({ a, b }) => [a, b])),
    },
    { layers, options },
  );
}

type Inputs = {
  x: Tensor;
  weights: readonly (Tensor | undefined)[];
  biases: readonly (Tensor | undefined)[];
  pairs: readonly Tensor[];
};
type Attrs = { layers: readonly LinearLayer[]; options: LinearOptions };

/** A layer as one kernel call sees it. */
interface Call {
  layer: LinearLayer;
  y: Tensor;
  u: Tensor | undefined;
  du: Tensor | undefined;
}

interface Saved {
  x: Tensor | undefined;
  us: (Tensor | undefined)[];
  /** Frozen weights, biases and pairs are kept alive by their modules; trained ones by the arena. */
  pairs: readonly Tensor[];
}

const linearOp = defineOp<Inputs, Attrs, Saved, Tensor[]>({
  name: "linear",
  forward({ x, weights, biases, pairs }, { layers, options }, save, recording) {
    if (!(x.shape.length === 2 && x.dtype === "float32")) throw mismatch("linear", "x", "float32 [T, in]", x);
    for (const { weight } of layers)
      if (weight.inFeatures !== x.shape[1]) throw mismatch("linear", "x", `[T, ${weight.inFeatures}] as the weight`, x);
    const rows = x.shape[0]!;
    const { device } = x;
    const trainsPairs = recording && pairs.some((tensor) => tensor.requiresGrad);
    const calls = layers.map((layer): Call => {
      const rank = maxRank(layer);
      return {
        layer,
        y: Tensor.empty([rows, layer.weight.outFeatures], { device }),
        u: trainsPairs && rank > 0 ? Tensor.empty([rows, rank], { device }) : undefined,
        du: undefined,
      };
    });
    enqueue(x, (k, d) => k.linear(d, words(x, undefined, false, calls, options)));
    const readsX = trainsPairs || (recording && [...weights, ...biases].some((tensor) => tensor?.requiresGrad));
    save({ x: readsX ? x : undefined, us: calls.map(({ u }) => u), pairs });
    return calls.map(({ y }) => y);
  },
  backward(dys, { x, us }, sink, inputs, { layers, options }) {
    const calls = layers.flatMap((layer, i): Call[] => {
      const dy = dys[i];
      if (!dy) return [];
      const u = us[i];
      return [{ layer, y: dy, u, du: u && Tensor.empty(u.shape, { device: u.device }) }];
    });
    const wanted = sink.needs(inputs.x) ? sink.into(inputs.x) : undefined;
    const trainsPairs = calls.some(({ u }) => u);
    if (wanted || trainsPairs) {
      // Only the shape of x is read here; it may be gone when nothing else needs it.
      const shape = x ?? wanted!.tensor;
      enqueue(shape, (k, d) => k.linearDx(d, words(shape, wanted?.tensor, wanted?.accumulate ?? false, calls, options)));
    }
    if (trainsPairs) {
      const trained = calls.filter(({ u }) => u);
      enqueue(x!, (k, d) => k.loraGrad(d, words(x!, undefined, false, trained, options, sink)));
    }
    for (const { layer, y: dy } of calls) {
      const dweight = gradientOf(layer.weight.dense, sink);
      const dbias = gradientOf(layer.bias, sink);
      if (dweight || dbias)
        enqueue(dy, (k, d) => k.linearDw(d, handleOf(dweight), handleOf(dbias), dy.handle, x!.handle, options.bf16 ? 1 : 0));
    }
  },
});

function maxRank(layer: LinearLayer): number {
  return layer.segments.reduce((rank, { a }) => Math.max(rank, a.shape[0]!), 0);
}

/** Where the gradient of a parameter accumulates; undefined when none is wanted. */
function gradientOf(parameter: Tensor | undefined, sink: Sink): Tensor | undefined {
  if (!parameter || !sink.needs(parameter)) return undefined;
  const { tensor, accumulate } = sink.into(parameter);
  if (!accumulate) enqueue(tensor, (k, d) => k.fill(d, tensor.handle, 0));
  return tensor;
}

/** `LinearGroupWords` of native/surface.ts; with a sink the segments name where the gradients of a and b go. */
function words(
  x: Tensor,
  dx: Tensor | undefined,
  accumulate: boolean,
  calls: readonly Call[],
  options: LinearOptions,
  sink?: Sink,
): Float64Array {
  const { p = 0, key = 0n } = options.dropout ?? {};
  const out = [
    x.handle,
    handleOf(dx),
    accumulate ? 1 : 0,
    options.bf16 ? 1 : 0,
    p,
    Number(key & 0xffffffffn),
    Number(key >> 32n),
    calls.length,
  ];
  for (const { layer, y, u, du } of calls) {
    out.push(layer.weight.handle, handleOf(layer.bias), y.handle, handleOf(u), handleOf(du), layer.segments.length);
    for (const { rowBegin, rowEnd, a, b, scale } of layer.segments) {
      out.push(
        rowBegin,
        rowEnd,
        a.handle,
        b.handle,
        sink ? handleOf(gradientOf(a, sink)) : 0,
        sink ? handleOf(gradientOf(b, sink)) : 0,
        scale,
      );
    }
  }
  return wordsOf(out);
}
