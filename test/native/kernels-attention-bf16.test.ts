/** Attention by products of bf16, against float64 and float32 kernels on the same inputs, rounded to bf16 for all of them. */
import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { attention } from "../reference/attention.js";
import { gradientError, relativeError, weighted } from "../reference/numeric.js";
import { type AttentionCase, cached, inputs, run, runPaged, self } from "./attention.js";
import { devices, isas, Raw, sameBits, withRaw } from "./raw.js";

const base = { heads: 1, kvHeads: 1, d: 64, scale: 0.125, bf16: true };
const cases: AttentionCase[] = [
  { ...base, name: "one tile of keys", lengths: self(40) },
  { ...base, name: "several tiles of queries and keys", lengths: self(210) },
  { ...base, name: "grouped heads", heads: 4, kvHeads: 2, lengths: self(70) },
  { ...base, name: "a group of three, whose rows cross tiles", heads: 3, lengths: self(101) },
  { ...base, name: "packed sequences, some of one token, one of none", heads: 2, lengths: self(65, 1, 0, 17, 128, 3) },
  { ...base, name: "window inside a tile", heads: 2, lengths: self(200), window: 5 },
  { ...base, name: "window over tiles, packed", lengths: self(180, 31), window: 100 },
  { ...base, name: "softcap", heads: 2, lengths: self(90), scale: 0.5, softcap: 1.5 },
  { ...base, name: "softcap and window", lengths: self(150), softcap: 2, window: 33 },
  { ...base, name: "heads of 96", d: 96, heads: 2, scale: 0.1, lengths: self(80) },
  { ...base, name: "heads of 128", d: 128, heads: 2, scale: 0.09, lengths: self(70, 29) },
  { ...base, name: "heads of 80, in 96 columns", d: 80, scale: 0.1, lengths: self(50) },
  { ...base, name: "odd heads", d: 37, lengths: self(50) },
  { ...base, name: "small heads", d: 6, heads: 2, scale: 0.4, lengths: self(35) },
  { ...base, name: "heads of 256", d: 256, scale: 0.06, lengths: self(67) },
  { ...base, name: "nine heads on three, whose blocks have odd rows", heads: 9, kvHeads: 3, lengths: self(71, 4) },
  { ...base, name: "150 heads on one, more than a block's usual rows", heads: 150, d: 16, scale: 0.3, lengths: self(5) },
  {
    ...base,
    name: "more keys than queries",
    heads: 2,
    lengths: [
      { queries: 30, keys: 170 },
      { queries: 9, keys: 20 },
    ],
  },
];

/** Where such products are native. */
const bf16Devices = devices.filter((name) => [cuda, "cpu:avx512bf16", "cpu:amx"].includes(name));
/** Heads above this are float32 on tensor cores. */
const widest = (device: string) => (device === cuda ? 128 : 512);

// P and dS are rounded to bf16, by up to 2^-9 a term; derivatives along a direction are sums in which most of the terms cancel.
const TOLERANCE = 4e-3;
const ALONG = 1e-2;

describe.each(bf16Devices)("attention in bf16 on %s", (device) => {
  it.each(cases)("equals float64 and float32: $name", async (c) => {
    const { x, ...actual } = await withRaw(device, (raw) => run(raw, c, 7));
    const expected = attention(x.q, x.k, x.v, c);
    expect(relativeError(actual.lse, expected.lse)).toBeLessThan(1e-5);
    expect(relativeError(actual.out, expected.out)).toBeLessThan(TOLERANCE);
    if (c.d <= widest(device)) expect(relativeError(actual.out, expected.out)).toBeGreaterThan(1e-5); // float32 would be nearer: these are other kernels
    expect(gradientError((q) => weighted(attention(q, x.k, x.v, c).out, x.dout), x.q, actual.dq, 21)).toBeLessThan(ALONG);
    expect(gradientError((k) => weighted(attention(x.q, k, x.v, c).out, x.dout), x.k, actual.dk, 22)).toBeLessThan(ALONG);
    expect(gradientError((v) => weighted(attention(x.q, x.k, v, c).out, x.dout), x.v, actual.dv, 23)).toBeLessThan(ALONG);
    const float32 = await withRaw("cpu:scalar", (raw) => run(raw, c, 7));
    for (const name of ["out", "dq", "dk", "dv"] as const)
      expect(relativeError(actual[name], float32[name])).toBeLessThan(TOLERANCE);
  });

  it.each(cached)("equals float64 over a paged cache in bf16: $name", async (c) => {
    const x = inputs({ ...c, bf16: true }, 9);
    const { out, lse } = await withRaw(device, (raw) => runPaged(raw, { ...c, bf16: true }, x, "bfloat16"));
    const expected = attention(x.q, x.k, x.v, c);
    expect(relativeError(lse, expected.lse)).toBeLessThan(1e-5);
    expect(relativeError(out, expected.out)).toBeLessThan(TOLERANCE);
    // Pairs need an even size; tensor cores have no way to a cache; where one key takes all, its probability is one in bf16 too.
    if (device !== cuda && c.d % 2 === 0 && c.scale < 1) expect(relativeError(out, expected.out)).toBeGreaterThan(1e-5);
  });

  it("gives the same bits every time, wherever its tensors lie", async () => {
    const c: AttentionCase = { ...base, name: "", heads: 6, kvHeads: 2, d: 128, lengths: self(90, 41) };
    const [one, two] = [await withRaw(device, (raw) => run(raw, c, 3)), await withRaw(device, (raw) => run(raw, c, 3), 64)];
    for (const name of ["out", "lse", "dq", "dk", "dv"] as const) expect(sameBits(one[name], two[name])).toBe(true);
  });

  it("keeps what is not finite in its own sequence", async () => {
    const c: AttentionCase = { ...base, name: "", lengths: self(18, 27) };
    const { x, ...actual } = await withRaw(device, (raw) =>
      run(raw, c, 5, (x) => [x.q, x.k, x.v, x.dout].map((t) => t.fill(Number.NaN, 0, 1))),
    );
    for (const name of ["out", "dq", "dk", "dv"] as const) {
      expect(actual[name].subarray(0, 18 * c.d).some(Number.isNaN)).toBe(true);
      expect(actual[name].subarray(18 * c.d).every(Number.isFinite)).toBe(true);
    }
  });

  it("gives no gradient where a query sees one key, zeros where it sees none", async () => {
    const windowed = await withRaw(device, (raw) => run(raw, { ...base, name: "", heads: 3, lengths: self(40), window: 1 }, 31));
    expect(windowed.dq.every((v) => v === 0) && windowed.dk.every((v) => v === 0)).toBe(true);
    const c: AttentionCase = { ...base, name: "", lengths: [{ queries: 25, keys: 12 }] };
    const { out, lse, dq, dk, dv } = await withRaw(device, (raw) => run(raw, c, 4));
    expect(out.subarray(0, 13 * c.d).every((v) => v === 0) && out.subarray(13 * c.d).every((v) => v !== 0)).toBe(true);
    expect(lse.subarray(0, 13).every((v) => v === Number.NEGATIVE_INFINITY)).toBe(true);
    expect(dq.subarray(0, 14 * c.d).every((v) => v === 0) && dq.subarray(14 * c.d).every((v) => v !== 0)).toBe(true);
    expect([...dk, ...dv].every(Number.isFinite)).toBe(true);
  });
});

describe("attention in bf16 on the CPU", () => {
  it("gives the same bits with 1, 2 and 4 threads", async () => {
    const c: AttentionCase = { ...base, name: "", heads: 9, kvHeads: 3, lengths: self(300, 37) };
    const raws = [new Raw(`cpu:${isas.at(-1)}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)];
    const [one, ...others] = await Promise.all(raws.map((raw) => run(raw, c, 3)));
    for (const other of others)
      for (const name of ["out", "lse", "dq", "dk", "dv"] as const) expect(sameBits(other[name], one![name])).toBe(true);
    for (const raw of raws) raw.dispose();
  });
});
