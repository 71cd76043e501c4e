/** A group of linears run forward and backward, and what float64 gives. */
import { NATIVE_ACTIVATIONS } from "../../src/native/surface.js";
import { glu } from "../reference/layers.js";
import { dropoutMask, type Layer, linear, linearGrad, matrix, type Segment } from "../reference/linear.js";
import { gaussian, uniform } from "../reference/numeric.js";
import { addon, type Raw } from "./raw.js";
import { bfloat16Bits, fromBfloat16, randomWeight, type WeightKind } from "./weights.js";

export interface LayerCase {
  kind: WeightKind;
  n: number;
  bias?: boolean;
  blocksize?: number;
  residual?: boolean;
  /** `grads`: which of dA and dB are wanted; both where it is absent. */
  segments?: readonly { begin: number; end: number; rank: number; grads?: "a" | "b" | "none" }[];
}
export interface GroupCase {
  rows: number;
  k: number;
  layers: readonly LayerCase[];
  dropout?: number;
  accumulate?: boolean;
  /** Whether dx is wanted; it is where this is absent. */
  dx?: boolean;
  /** The two layers end as a gated linear unit; what else the forward writes. */
  gated?: { activation: "silu" | "gelu_tanh"; keeps: readonly boolean[] };
  /** Products in bf16. All operands but the weight are then -1, 0 or 1, so that nothing else is rounded: sums below 256 are exact in bf16. */
  bf16?: boolean;
}
const KEY = 0x1234_5678_9abc_def0n;

const ternary = (n: number, seed: number): Float32Array => {
  const next = uniform(seed);
  return Float32Array.from({ length: n }, () => Math.floor(3 * next()) - 1);
};

/** Runs both entries of a group; what they gave and what float64 gives, by name. */
export async function runGroup(
  raw: Raw,
  c: GroupCase,
): Promise<{ actual: Record<string, Float32Array>; expected: Record<string, Float64Array> }> {
  const { rows, k, dropout = 0, bf16 = false } = c;
  const random = bf16 ? ternary : gaussian;
  const x = random(rows * k, 1);
  const dx0 = random(rows * k, 2);
  const mask = dropoutMask(rows, k, dropout, KEY);
  const t = { x: raw.from(x, [rows, k]), dx: c.accumulate ? raw.from(dx0, [rows, k]) : raw.out([rows, k]) };
  const layers: Layer[] = [];
  const head = [
    t.x,
    t.dx,
    c.accumulate ? 1 : 0,
    bf16 ? 1 : 0,
    dropout,
    Number(KEY & 0xffffffffn),
    Number(KEY >> 32n),
    0,
    0,
    c.layers.length,
  ];
  const [forward, backward] = [[...head], [...head]];
  const wantsDx = c.dx ?? true;
  if (!wantsDx) backward[1] = 0;
  const outputs: Record<string, number> = wantsDx ? { dx: t.dx } : {};
  if (c.gated) {
    outputs.gated = raw.out([rows, c.layers[0]!.n]);
    forward.splice(7, 2, outputs.gated, NATIVE_ACTIVATIONS.indexOf(c.gated.activation));
  }
  const added: Record<string, Float32Array> = c.accumulate ? { dx: dx0 } : {};
  const weights: number[] = [];
  c.layers.forEach(({ kind, n, bias, residual, blocksize, segments = [] }, l) => {
    const seed = 100 * (l + 1);
    const w = randomWeight(raw, kind, n, k, seed, blocksize);
    weights.push(w.handle);
    const biasData = bias ? random(n, seed + 9) : undefined;
    const dy = random(rows * n, seed + 10);
    const y = c.gated?.keeps[l] === false ? 0 : raw.out([rows, n]);
    if (y) outputs[`y${l}`] = y;
    const widest = Math.max(1, ...segments.map((s) => s.rank));
    const u = segments.every(({ grads }) => grads === "none") ? 0 : raw.out([rows, widest]);
    const b = biasData ? raw.from(biasData, [n]) : 0;
    if (residual) added[`y${l}`] = random(rows * n, seed + 11);
    forward.push(w.handle, b, y, u, residual ? raw.from(added[`y${l}`]!, [rows, n]) : 0, segments.length);
    backward.push(w.handle, b, raw.from(dy, [rows, n]), u, 0, segments.length);
    const reference: Segment[] = segments.map(({ begin, end, rank, grads }, i) => {
      const [a, bb, da, db] = [
        random(rank * k, seed + i + 20),
        random(n * rank, seed + i + 40),
        random(rank * k, seed + i + 60),
        random(n * rank, seed + i + 80),
      ] as const;
      const scale = bf16 ? 2 ** i : 0.5 + i;
      const tensors = [
        raw.from(a, [rank, k]),
        raw.from(bb, [n, rank]),
        raw.from(da, [rank, k]),
        raw.from(db, [n, rank]),
      ] as const;
      const wanted = [grads !== "b" && grads !== "none", grads !== "a" && grads !== "none"] as const;
      forward.push(begin, end, tensors[0], tensors[1], 0, 0, scale);
      backward.push(begin, end, tensors[0], tensors[1], wanted[0] ? tensors[2] : 0, wanted[1] ? tensors[3] : 0, scale);
      if (wanted[0]) outputs[`dA${l}.${i}`] = tensors[2];
      if (wanted[1]) outputs[`dB${l}.${i}`] = tensors[3];
      added[`dA${l}.${i}`] = da;
      added[`dB${l}.${i}`] = db;
      return { begin, end, a: matrix(rank, k, a), b: matrix(n, rank, bb), scale };
    });
    const used = bf16
      ? matrix(
          n,
          k,
          w.values.at.map((v) => fromBfloat16(bfloat16Bits(v))),
        )
      : w.values;
    layers.push({ w: used, ...(biasData ? { bias: biasData } : {}), dy: matrix(rows, n, dy), segments: reference });
  });
  raw.kernels.linear(raw.d, Float64Array.from(forward));
  raw.kernels.linearGrad(raw.d, Float64Array.from(backward));

  const xm = matrix(rows, k, x);
  const grad = linearGrad(xm, layers, mask);
  const all: Record<string, Float64Array> = { dx: grad.dx.at };
  layers.forEach((layer, l) => {
    all[`y${l}`] = linear(xm, layer, mask).at;
    for (let i = 0; i < layer.segments.length; i++) {
      all[`dA${l}.${i}`] = grad.da[l]?.[i]?.at as Float64Array;
      all[`dB${l}.${i}`] = grad.db[l]?.[i]?.at as Float64Array;
    }
  });
  if (c.gated) all.gated = glu(all.y0!, all.y1!, c.gated.activation);
  const actual: Record<string, Float32Array> = {};
  const expected: Record<string, Float64Array> = {};
  for (const [name, handle] of Object.entries(outputs)) {
    actual[name] = await raw.f32(handle);
    const before = added[name];
    expected[name] = before ? all[name]!.map((v, i) => v + (before[i] as number)) : all[name]!;
  }
  for (const w of weights) addon.freeWeight(w);
  return { actual, expected };
}
