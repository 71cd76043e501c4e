/** Calls of the attention kernels with random inputs, for the suites of all devices. */
import type { AttentionShape } from "../reference/attention.js";
import { gaussian } from "../reference/numeric.js";
import type { Raw } from "./raw.js";
import { bfloat16Bits, fromBfloat16 } from "./weights.js";

export interface AttentionCase extends AttentionShape {
  name: string;
  /** Products of bf16, on inputs that are rounded to it. */
  bf16?: boolean;
}

export const self = (...lengths: number[]) => lengths.map((n) => ({ queries: n, keys: n }));
export const base = { heads: 1, kvHeads: 1, d: 8, scale: 0.4 };
const lengths = (...pairs: [queries: number, keys: number][]) => pairs.map(([queries, keys]) => ({ queries, keys }));
export const long = (...keys: number[]) => lengths(...keys.map((n): [number, number] => [1, n]));

/** Queries against keys of a cache. */
export const cached: AttentionCase[] = [
  {
    ...base,
    name: "one query each, of many and few keys",
    heads: 9,
    kvHeads: 3,
    d: 64,
    scale: 0.125,
    lengths: long(700, 1, 128, 129),
  },
  { ...base, name: "odd head size", heads: 4, kvHeads: 2, d: 5, lengths: long(300, 64) },
  { ...base, name: "a window that leaves out whole tiles", heads: 2, kvHeads: 1, lengths: long(600, 90), window: 200 },
  { ...base, name: "a window and a softcap", lengths: long(400), window: 300, softcap: 2 },
  { ...base, name: "scores far apart", d: 16, scale: 40, lengths: long(520) },
  { ...base, name: "some queries", heads: 4, kvHeads: 2, lengths: lengths([3, 400], [2, 260]) },
  { ...base, name: "few queries beside many", heads: 4, kvHeads: 2, lengths: lengths([1, 500], [70, 300]) },
];

export function inputs(c: AttentionCase, seed: number) {
  const tokens = c.lengths.reduce((n, s) => n + s.queries, 0);
  const keys = c.lengths.reduce((n, s) => n + s.keys, 0);
  const random = (count: number, at: number) => {
    const values = gaussian(count, at);
    return c.bf16 ? roundedBf16(values) : values;
  };
  return {
    tokens,
    keys,
    q: random(tokens * c.heads * c.d, seed),
    k: random(keys * c.kvHeads * c.d, seed + 1),
    v: random(keys * c.kvHeads * c.d, seed + 2),
    dout: random(tokens * c.heads * c.d, seed + 3),
    cuQ: cumulative(c.lengths.map((s) => s.queries)),
    cuK: cumulative(c.lengths.map((s) => s.keys)),
  };
}

export const roundedBf16 = (values: Float32Array) => values.map((v) => fromBfloat16(bfloat16Bits(v)));

export const cumulative = (counts: readonly number[]): Int32Array =>
  Int32Array.from([0, ...counts.map((_, i) => counts.slice(0, i + 1).reduce((a, b) => a + b, 0))]);

/** Fields of lr_attention_args in order. */
export const words = (a: Record<string, number>): Float64Array =>
  Float64Array.from(
    [
      "out",
      "lse",
      "q",
      "k",
      "v",
      "cuQ",
      "cuK",
      "kvLen",
      "blockTable",
      "scale",
      "softcap",
      "window",
      "maxQ",
      "math",
      "dout",
      "dq",
      "dk",
      "dv",
    ],
    (name) => a[name] ?? 0,
  );

export async function run(raw: Raw, c: AttentionCase, seed: number, change = (_: ReturnType<typeof inputs>) => {}) {
  const x = inputs(c, seed);
  change(x);
  const queryShape = [x.tokens, c.heads, c.d];
  const keyShape = [x.keys, c.kvHeads, c.d];
  const t = {
    q: raw.from(x.q, queryShape),
    k: raw.from(x.k, keyShape),
    v: raw.from(x.v, keyShape),
    dout: raw.from(x.dout, queryShape),
    cuQ: raw.from(x.cuQ, [x.cuQ.length]),
    cuK: raw.from(x.cuK, [x.cuK.length]),
    out: raw.out(queryShape),
    lse: raw.out([x.tokens, c.heads]),
    dq: raw.out(queryShape),
    dk: raw.out(keyShape),
    dv: raw.out(keyShape),
    scale: c.scale,
    softcap: c.softcap ?? 0,
    window: c.window ?? 0,
    maxQ: Math.max(...c.lengths.map((s) => s.queries)),
    math: c.bf16 ? 1 : 0,
  };
  raw.kernels.attention(raw.d, words(t));
  raw.kernels.attentionGrad(raw.d, words(t));
  const [out, lse, dq, dk, dv] = await Promise.all([t.out, t.lse, t.dq, t.dk, t.dv].map((h) => raw.f32(h)));
  return { x, out, lse, dq, dk, dv } as { x: typeof x } & Record<"out" | "lse" | "dq" | "dk" | "dv", Float32Array>;
}

/** Keys and values in blocks of 64 of a pool of this dtype, the last block first. */
export async function runPaged(raw: Raw, c: AttentionCase, x: ReturnType<typeof inputs>, dtype: "float32" | "bfloat16") {
  const width = c.kvHeads * c.d;
  const needs = c.lengths.map(({ keys }) => Math.ceil(keys / 64));
  const blocks = needs.reduce((a, b) => a + b, 0);
  const most = Math.max(...needs);
  const table = new Int32Array(needs.length * most).fill(-1);
  const pools = [x.k, x.v].map(() => new Float32Array(blocks * 64 * width).fill(Number.NaN));
  let next = blocks;
  let first = 0;
  for (const [s, { keys }] of c.lengths.entries()) {
    for (let key = 0; key < keys; key += 64) {
      table[s * most + key / 64] = --next;
      for (const [i, from] of [x.k, x.v].entries())
        pools[i]!.set(from.subarray((first + key) * width, (first + Math.min(key + 64, keys)) * width), next * 64 * width);
    }
    first += keys;
  }
  const queries = c.lengths.map(({ queries }) => queries);
  const tokens = queries.reduce((a, b) => a + b, 0);
  const [k, v] = pools.map((pool) =>
    raw.from(dtype === "float32" ? pool : Uint16Array.from(pool, bfloat16Bits), [blocks, 64, c.kvHeads, c.d], dtype),
  ) as [number, number];
  const out = raw.out([tokens, c.heads, c.d]);
  const lse = raw.out([tokens, c.heads]);
  const tensors = {
    ...{ k, v, out, lse },
    q: raw.from(x.q, [tokens, c.heads, c.d]),
    cuQ: raw.from(x.cuQ, [queries.length + 1]),
    kvLen: raw.from(
      Int32Array.from(c.lengths, ({ keys }) => keys),
      [queries.length],
    ),
    blockTable: raw.from(table, [queries.length, most]),
  };
  const { scale, window = 0, softcap = 0 } = c;
  raw.kernels.attention(raw.d, words({ ...tensors, scale, window, softcap, maxQ: Math.max(...queries), math: c.bf16 ? 1 : 0 }));
  return { out: await raw.f32(out), lse: await raw.f32(lse) };
}
