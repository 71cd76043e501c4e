import { describe, expect, it } from "vitest";
import { attention } from "../reference/attention.js";
import { gradientError, relativeError, weighted } from "../reference/numeric.js";
import {
  type AttentionCase,
  base,
  cached,
  cumulative,
  inputs,
  long,
  roundedBf16,
  run,
  runPaged,
  self,
  words,
} from "./attention.js";
import { devices, isas, Raw, refusal, sameBits, withRaw } from "./raw.js";

const cases: AttentionCase[] = [
  { ...base, name: "one token", lengths: self(1) },
  { ...base, name: "odd head size", d: 3, lengths: self(5) },
  { ...base, name: "two tiles of keys, head size 65", d: 65, scale: 0.125, lengths: self(70) },
  { ...base, name: "grouped heads, packed sequences", heads: 6, kvHeads: 2, d: 16, lengths: self(3, 1, 65, 7) },
  { ...base, name: "nine heads on three, several blocks", heads: 9, kvHeads: 3, lengths: self(90) },
  { ...base, name: "multi-query", heads: 4, kvHeads: 1, lengths: self(9, 2) },
  { ...base, name: "window", heads: 2, lengths: self(140), window: 5 },
  { ...base, name: "window wider than a tile", lengths: self(150), window: 70 },
  { ...base, name: "softcap", heads: 2, kvHeads: 2, lengths: self(33), softcap: 1.5 },
  { ...base, name: "softcap and window", lengths: self(80), softcap: 2, window: 20 },
  {
    ...base,
    name: "more keys than queries",
    lengths: [
      { queries: 3, keys: 100 },
      { queries: 1, keys: 1 },
    ],
  },
  { ...base, name: "large scores", d: 16, scale: 40, lengths: self(20) },
  { ...base, name: "scores that rise from tile to tile", d: 16, scale: 3, lengths: self(200) },
  { ...base, name: "several parts of the queries", heads: 3, kvHeads: 1, lengths: self(200) },
  { ...base, name: "several parts and a window", heads: 3, kvHeads: 1, lengths: self(180, 3), window: 30 },
  { ...base, name: "head size 128", d: 128, scale: 0.09, heads: 2, lengths: self(17) },
  { ...base, name: "an empty sequence", lengths: self(2, 0, 3) },
];

describe.each(devices)("attention on %s", (device) => {
  it.each(cases)("equals float64: $name", async (c) => {
    await withRaw(device, async (raw) => {
      const { x, out, lse, dq, dk, dv } = await run(raw, c, 11);
      const expected = attention(x.q, x.k, x.v, c);
      const tolerance = c.scale > 1 ? 1e-4 : 1e-5;
      expect(relativeError(out, expected.out)).toBeLessThan(tolerance);
      expect(relativeError(lse, expected.lse)).toBeLessThan(tolerance);
      if (c.scale > 1) return; // finite differences of a hard maximum say nothing
      expect(gradientError((q) => weighted(attention(q, x.k, x.v, c).out, x.dout), x.q, dq, 21)).toBeLessThan(3e-5);
      expect(gradientError((k) => weighted(attention(x.q, k, x.v, c).out, x.dout), x.k, dk, 22)).toBeLessThan(3e-5);
      expect(gradientError((v) => weighted(attention(x.q, x.k, v, c).out, x.dout), x.v, dv, 23)).toBeLessThan(3e-5);
    });
  });

  it("gives a query that sees one key a gradient of exactly zero", async () => {
    await withRaw(device, async (raw) => {
      const windowed = await run(raw, { ...base, name: "window of one", heads: 3, d: 80, lengths: self(40), window: 1 }, 31);
      expect(windowed.dq.every((v) => v === 0) && windowed.dk.every((v) => v === 0)).toBe(true);
      const packed = await run(raw, { ...base, name: "first tokens", d: 80, lengths: self(1, 5) }, 32);
      expect(packed.dq.subarray(0, 160).every((v) => v === 0)).toBe(true);
      expect(packed.dq.subarray(160).every((v) => v !== 0)).toBe(true);
    });
  });

  it("gives no probability above one to the gradient, however large the scores", async () => {
    await withRaw(device, async (raw) => {
      for (const [queries, seed] of [
        [2, 41],
        [7, 42],
        [40, 43],
      ] as const) {
        const d = 80;
        const { x, dv } = await run(raw, { ...base, name: "huge scores", scale: 1e7, d, lengths: self(queries) }, seed);
        const sums = (of: Float32Array) =>
          Array.from({ length: d }, (_, c) => of.reduce((sum, v, i) => (i % d === c ? sum + Math.abs(v) : sum), 0));
        const most = sums(x.dout);
        // exp(score - lse) is far off where the two passes round a score of 1e8 in different ways.
        for (const [c, sum] of sums(dv).entries()) expect(sum).toBeLessThan(1.001 * most[c]!);
      }
    });
  });

  const dtypes = ["float32", "bfloat16"] as const;
  it.each(cached.flatMap((c) => dtypes.map((dtype) => ({ ...c, dtype }))))(
    "equals float64 over a paged cache in $dtype: $name",
    async (c) => {
      await withRaw(device, async (raw) => {
        const x = inputs(c, 6);
        if (c.dtype === "bfloat16") for (const t of [x.k, x.v]) t.set(roundedBf16(t));
        const { out, lse } = await runPaged(raw, c, x, c.dtype);
        const expected = attention(x.q, x.k, x.v, c);
        const tolerance = c.scale > 1 ? 1e-4 : 1e-5;
        expect(relativeError(out, expected.out)).toBeLessThan(tolerance);
        expect(relativeError(lse, expected.lse)).toBeLessThan(tolerance);
      });
    },
  );

  it.each(dtypes)("reads keys from a paged cache in %s that kvAppend filled in steps", async (dtype) => {
    await withRaw(device, async (raw) => {
      const c: AttentionCase = {
        ...base,
        name: "",
        heads: 4,
        kvHeads: 2,
        d: 5,
        lengths: [
          { queries: 3, keys: 131 },
          { queries: 2, keys: 2 },
        ],
      };
      const x = inputs(c, 5);
      const pool = [6, 64, c.kvHeads, c.d];
      const t = {
        k: raw.out(pool, dtype),
        v: raw.out(pool, dtype),
        blockTable: raw.from(Int32Array.from([4, 0, 5, 2, -1, -1]), [2, 3]),
        cuQ: raw.from(x.cuQ, [3]),
      };
      const width = c.kvHeads * c.d;
      const append = (keys: number[], from: (s: number) => number, upTo: (s: number) => number) => {
        const rows = (data: Float32Array) =>
          keys.flatMap((_, s) => {
            const first = (x.cuK[s] as number) * width;
            return [...data.slice(first + from(s) * width, first + upTo(s) * width)];
          });
        const counts = keys.map((_, s) => upTo(s) - from(s));
        const total = counts.reduce((a, b) => a + b, 0);
        const lengths = raw.from(Int32Array.from(keys.map((_, s) => upTo(s))), [2]);
        const cu = raw.from(cumulative(counts), [3]);
        const [k, v] = [x.k, x.v].map((data) => raw.from(rows(data), [total, c.kvHeads, c.d])) as [number, number];
        raw.kernels.kvAppend(raw.d, t.k, t.v, k, v, cu, lengths, t.blockTable);
        return lengths;
      };
      append(
        [0, 1],
        (s) => 0 * s,
        (s) => (s === 0 ? 60 : 0),
      );
      append(
        [0, 1],
        (s) => (s === 0 ? 60 : 0),
        (s) => (s === 0 ? 128 : 0),
      );
      const kvLen = append(
        [0, 1],
        (s) => (s === 0 ? 128 : 0),
        (s) => (s === 0 ? 131 : 2),
      );
      const out = raw.out([5, c.heads, c.d]);
      raw.kernels.attention(raw.d, words({ ...t, q: raw.from(x.q, [5, c.heads, c.d]), out, kvLen, scale: c.scale, maxQ: 3 }));
      const kept = (t: Float32Array) => (dtype === "bfloat16" ? roundedBf16(t) : t);
      expect(relativeError(await raw.f32(out), attention(x.q, kept(x.k), kept(x.v), c).out)).toBeLessThan(1e-5);
    });
  });
});

describe("attention", () => {
  it.each([false, true])(
    "over a paged cache gives a query the same bits with 1, 2 and 4 threads, alone and in a batch; bf16: %s",
    async (bf16) => {
      const best = isas.at(-1) as string;
      const batch: AttentionCase = {
        ...base,
        name: "",
        heads: 9,
        kvHeads: 3,
        d: 64,
        scale: 0.125,
        lengths: long(530, 700),
        bf16,
      };
      const dtype = bf16 ? "bfloat16" : "float32";
      const alone: AttentionCase = { ...batch, lengths: long(530) };
      const x = inputs(batch, 7);
      const keys = 530 * 3 * 64;
      const one = {
        ...x,
        q: x.q.subarray(0, 9 * 64),
        k: x.k.subarray(0, keys),
        v: x.v.subarray(0, keys),
        cuQ: Int32Array.of(0, 1),
      };
      const raws = [new Raw(`cpu:${best}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)];
      const [first, ...others] = await Promise.all(raws.map((raw) => runPaged(raw, batch, x, dtype)));
      for (const other of others) expect(sameBits(other.out, first!.out)).toBe(true);
      expect(sameBits((await runPaged(raws[1]!, alone, one, dtype)).out, first!.out.slice(0, 9 * 64))).toBe(true);
      for (const raw of raws) raw.dispose();
    },
  );

  it("gives the same bits with 1, 2 and 4 threads", async () => {
    const best = isas.at(-1) as string;
    const c: AttentionCase = { ...base, name: "", heads: 9, kvHeads: 3, d: 64, scale: 0.125, lengths: self(170, 37) };
    const raws = [new Raw(`cpu:${best}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)];
    const [one, ...others] = await Promise.all(raws.map((raw) => run(raw, c, 3)));
    for (const other of others) {
      for (const name of ["out", "lse", "dq", "dk", "dv"] as const) expect(sameBits(other[name], one?.[name])).toBe(true);
    }
    for (const raw of raws) raw.dispose();
  });

  it("refuses what does not fit, in one sentence", async () => {
    await withRaw("cpu", async (raw) => {
      const t = {
        q: raw.out([4, 3, 8]),
        k: raw.out([4, 2, 8]),
        v: raw.out([4, 2, 8]),
        out: raw.out([4, 3, 8]),
        cuQ: raw.from(Int32Array.of(0, 4), [2]),
      };
      const heads = await refusal(raw, () => raw.kernels.attention(raw.d, words({ ...t, scale: 1, maxQ: 4 })));
      expect(heads).toMatchObject({ code: "INVALID", op: "attention" });
      expect(heads.message).toContain("3 query heads are no multiple of 2 kv heads");
      const pool = (dtype: "float16" | "float32" | "bfloat16") => raw.out([1, 64, 1, 8], dtype);
      const paged = {
        ...t,
        kvLen: raw.from(Int32Array.of(4), [1]),
        blockTable: raw.from(Int32Array.of(0), [1, 1]),
        scale: 1,
        maxQ: 4,
      };
      const half = await refusal(raw, () =>
        raw.kernels.attention(raw.d, words({ ...paged, k: pool("float16"), v: pool("float16") })),
      );
      expect(half.message).toContain("k must be float32 or bfloat16 but is float16");
      const two = await refusal(raw, () =>
        raw.kernels.attention(raw.d, words({ ...paged, k: pool("bfloat16"), v: pool("float32") })),
      );
      expect(two.message).toContain("v must be bfloat16 but is float32");
      const packed = await refusal(raw, () =>
        raw.kernels.attention(raw.d, words({ ...t, k: raw.out([4, 1, 8], "bfloat16"), scale: 1, maxQ: 4 })),
      );
      expect(packed.message).toContain("k must be float32 but is bfloat16");
      const falling = { ...t, k: raw.out([4, 1, 8]), v: raw.out([4, 1, 8]), cuQ: raw.from(Int32Array.of(0, 5, 4), [3]) };
      const order = await refusal(raw, () => raw.kernels.attention(raw.d, words({ ...falling, scale: 1, maxQ: 4 })));
      expect(order.message).toContain("cu_q must not fall but goes from 5 to 4");
    });
  });
});
