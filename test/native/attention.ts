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

export function inputs(c: AttentionCase, seed: number) {
  const tokens = c.lengths.reduce((n, s) => n + s.queries, 0);
  const keys = c.lengths.reduce((n, s) => n + s.keys, 0);
  const random = (count: number, at: number) => {
    const values = gaussian(count, at);
    return c.bf16 ? values.map((v) => fromBfloat16(bfloat16Bits(v))) : values;
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
