import { defineOp } from "../autograd/op.js";
import type { Sink } from "../autograd/tape.js";
import type { Weight } from "../quant/weight.js";
import { Tensor } from "../tensor/tensor.js";
import { fill } from "./copy.js";
import { type Activation, codeOf } from "./glu.js";
import { enqueue, handleOf, mismatch, wordsOf } from "./kernel.js";

/** Rows [rowBegin, rowEnd) use one LoRA pair: a [r, in], b [out, r], float32. */
export interface LoraSegment {
  rowBegin: number;
  rowEnd: number;
  a: Tensor;
  b: Tensor;
  scale: number;
}

/** One linear of a group: y = x Wᵀ + bias + Σ scale (drop(x) aᵀ) bᵀ + residual, the sum over the rows of each segment. */
export interface LinearLayer {
  weight: Weight;
  bias: Tensor | undefined;
  /** Ascending, not overlapping. */
  segments: readonly LoraSegment[];
  /** float32 [T, out]. */
  residual?: Tensor | undefined;
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
  return linearOp(inputsOf(x, layers), { layers, options });
}

/** activation(gate) * up of two such linears, float32 [T, out] each: without a backward to come they are not kept. */
export function gatedLinear(
  x: Tensor,
  layers: readonly [gate: LinearLayer, up: LinearLayer],
  activation: Activation,
  options: LinearOptions = {},
): Tensor {
  return linearOp(inputsOf(x, layers), { layers, options, activation })[0]!;
}

function inputsOf(x: Tensor, layers: readonly LinearLayer[]): Inputs {
  const parts: (Tensor | undefined)[] = pairsOf(layers);
  for (const { weight, bias, residual } of layers) parts.push(weight.dense, bias, residual);
  return { x, parts };
}

/** `parts`: all that the layers hold. */
type Inputs = { x: Tensor; parts: readonly (Tensor | undefined)[] };
type Attrs = { layers: readonly LinearLayer[]; options: LinearOptions; activation?: Activation };

/** A layer as one kernel call sees it. */
interface Call {
  layer: LinearLayer;
  /** Or its gradient. Absent: gate or up that nobody reads. */
  y: Tensor | undefined;
  u: Tensor | undefined;
  /** Gone by the time of the gradient, which does not read it. */
  residual?: Tensor | undefined;
}

interface Saved {
  x: Tensor | undefined;
  us: (Tensor | undefined)[];
  /** Frozen weights, biases and pairs are kept alive by their modules; trained ones by the arena. */
  pairs: readonly Tensor[];
  /** Gate and up of a gated group. */
  ys: readonly Tensor[];
}

const linearOp = defineOp<Inputs, Attrs, Saved, Tensor[]>({
  name: "linear",
  forward({ x }, { layers, options, activation }, save, recording) {
    if (!(x.shape.length === 2 && x.dtype === "float32")) throw mismatch("linear", "x", "float32 [T, in]", x);
    for (const { weight, residual } of layers) {
      if (weight.inFeatures !== x.shape[1]) throw mismatch("linear", "x", `[T, ${weight.inFeatures}] as the weight`, x);
      if (residual && !(residual.shape[0] === x.shape[0] && residual.shape[1] === weight.outFeatures))
        throw mismatch("linear", "residual", `[${x.shape[0]}, ${weight.outFeatures}] as y`, residual);
    }
    const rows = x.shape[0]!;
    const { device } = x;
    const empty = ({ weight }: LinearLayer) => Tensor.empty([rows, weight.outFeatures], { device });
    const gated = activation && { y: empty(layers[0]!), activation };
    const pairs = recording ? pairsOf(layers) : [];
    const trainsPairs = pairs.some((tensor) => tensor.requiresGrad);
    const calls = layers.map((layer): Call => {
      const rank = maxRank(layer);
      return {
        layer,
        y: gated && !recording ? undefined : empty(layer),
        u: trainsPairs && rank > 0 ? Tensor.empty([rows, rank], { device }) : undefined,
        residual: layer.residual,
      };
    });
    enqueue(x, (k, d) => k.linear(d, words(x, undefined, false, calls, options, { gated })));
    const ys: Tensor[] = [];
    for (const { y } of calls) if (y) ys.push(y);
    if (recording) {
      const readsX = trainsPairs || layers.some(({ weight, bias }) => weight.dense?.requiresGrad || bias?.requiresGrad);
      save({ x: readsX ? x : undefined, us: calls.map(({ u }) => u), pairs, ys: gated ? ys : [] });
    }
    return gated ? [gated.y] : ys;
  },
  backward(given, { x, us, ys }, sink, inputs, { layers, options, activation }) {
    const [gate, up] = ys;
    // Nobody else has gate and up: their gradients take their place.
    if (activation)
      enqueue(gate!, (k, d) =>
        k.gluGrad(d, gate!.handle, up!.handle, given[0]!.handle, gate!.handle, up!.handle, codeOf(activation)),
      );
    const dys = activation ? ys : given;
    const calls = layers.flatMap((layer, i) => {
      const dy = dys[i];
      return dy ? [{ layer, y: dy, u: us[i] }] : [];
    });
    const wanted = sink.needs(inputs.x) ? sink.into(inputs.x) : undefined;
    const trainsPairs = calls.some(({ u }) => u);
    if (wanted || trainsPairs) {
      // Without pairs only the shape of x is read; it may be gone when nothing else needs it.
      const shape = x ?? wanted!.tensor;
      enqueue(shape, (k, d) =>
        k.linearGrad(d, words(shape, wanted?.tensor, wanted?.accumulate ?? false, calls, options, trainsPairs ? { sink } : {})),
      );
    }
    for (const { layer, y: dy } of calls) {
      const dweight = gradientOf(layer.weight.dense, sink);
      const dbias = gradientOf(layer.bias, sink);
      if (dweight || dbias)
        enqueue(dy, (k, d) => k.linearDw(d, handleOf(dweight), handleOf(dbias), dy.handle, x!.handle, options.bf16 ? 1 : 0));
      if (layer.residual) sink.give(layer.residual, dy);
    }
  },
});

function pairsOf(layers: readonly LinearLayer[]): Tensor[] {
  const pairs: Tensor[] = [];
  for (const { segments } of layers) for (const { a, b } of segments) pairs.push(a, b);
  return pairs;
}

function maxRank(layer: LinearLayer): number {
  return layer.segments.reduce((rank, { a }) => Math.max(rank, a.shape[0]!), 0);
}

/** Where the gradient of a parameter accumulates; undefined when none is wanted. */
function gradientOf(parameter: Tensor | undefined, sink: Sink): Tensor | undefined {
  if (!parameter || !sink.needs(parameter)) return undefined;
  const { tensor, accumulate } = sink.into(parameter);
  if (!accumulate) fill(tensor, 0);
  return tensor;
}

/** `LinearGroupWords` of native/surface.ts; with a sink the segments name where the gradients of a and b go. `gated`: where the product of both goes. */
function words(
  x: Tensor,
  dx: Tensor | undefined,
  accumulate: boolean,
  calls: readonly Call[],
  options: LinearOptions,
  { sink, gated }: { sink?: Sink; gated?: { y: Tensor; activation: Activation } | undefined },
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
    handleOf(gated?.y),
    gated ? codeOf(gated.activation) : 0,
    calls.length,
  ];
  for (const { layer, y, u, residual } of calls) {
    out.push(layer.weight.handle, handleOf(layer.bias), handleOf(y), handleOf(u), handleOf(residual), layer.segments.length);
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
