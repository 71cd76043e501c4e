/** Attention on the emulated device where the conformance suite does not lead: copies of 16 bytes, large heads, keys in parts. */
import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { type AttentionCase, base, run, self, words } from "../native/attention.js";
import { type Raw, refusal, sameBits, withRaw } from "../native/raw.js";
import { attention } from "../reference/attention.js";
import { gradientError, relativeError, weighted } from "../reference/numeric.js";

describe("attention on emu", () => {
  it("gives the same bits with vectors of 16 bytes as without", async () => {
    const c: AttentionCase = { ...base, name: "", heads: 4, kvHeads: 2, d: 20, lengths: self(40, 3) };
    const [vectors, plain] = await Promise.all([64, 72].map((guard) => withRaw(cuda, (raw) => run(raw, c, 1), guard)));
    for (const name of ["out", "lse", "dq", "dk", "dv"] as const) expect(sameBits(vectors![name], plain![name])).toBe(true);
  });

  it.each([130, 200, 257, 512])("equals float64 with heads of %i", async (d) => {
    const c: AttentionCase = { ...base, name: "", heads: 2, d, scale: 1 / Math.sqrt(d), lengths: self(19) };
    const { x, out, dq, dk, dv } = await withRaw(cuda, (raw) => run(raw, c, 2), 64);
    expect(relativeError(out, attention(x.q, x.k, x.v, c).out)).toBeLessThan(1e-5);
    expect(gradientError((q) => weighted(attention(q, x.k, x.v, c).out, x.dout), x.q, dq, 21)).toBeLessThan(3e-5);
    expect(gradientError((k) => weighted(attention(x.q, k, x.v, c).out, x.dout), x.k, dk, 22)).toBeLessThan(3e-5);
    expect(gradientError((v) => weighted(attention(x.q, x.k, v, c).out, x.dout), x.v, dv, 23)).toBeLessThan(3e-5);
  });

  it("joins the parts of a long sequence's keys, with window and softcap", async () => {
    for (const c of [
      { ...base, heads: 4, lengths: [{ queries: 2, keys: 700 }] },
      {
        ...base,
        heads: 2,
        lengths: [
          { queries: 1, keys: 300 },
          { queries: 1, keys: 2 },
        ],
        window: 150,
        softcap: 2,
      },
    ]) {
      const { x, out, lse } = await withRaw(cuda, (raw) => run(raw, { ...c, name: "" }, 3));
      const expected = attention(x.q, x.k, x.v, c);
      expect(relativeError(out, expected.out)).toBeLessThan(1e-5);
      expect(relativeError(lse, expected.lse)).toBeLessThan(1e-5);
    }
  });

  it("gives zero, and no gradient, where a query sees no key", async () => {
    const c: AttentionCase = { ...base, name: "", lengths: [{ queries: 5, keys: 2 }] };
    const { out, dq, dk, dv } = await withRaw(cuda, (raw) => run(raw, c, 4));
    expect(out.subarray(0, 3 * c.d).every((v) => v === 0)).toBe(true);
    expect(out.subarray(3 * c.d).every((v) => v !== 0)).toBe(true);
    expect(dq.subarray(0, 3 * c.d).every((v) => v === 0)).toBe(true);
    expect([...dk, ...dv].every(Number.isFinite)).toBe(true);
  });

  it("says what is wrong with indices as the CPU does, and writes nothing", async () => {
    const refused = async (device: string, change: Record<string, (raw: Raw) => number>) =>
      withRaw(device, async (raw) => {
        const t: Record<string, number> = {
          q: raw.out([4, 1, 8]),
          k: raw.out([3, 64, 1, 8]),
          v: raw.out([3, 64, 1, 8]),
          out: raw.out([4, 1, 8]),
          cuQ: raw.from(Int32Array.of(0, 1, 4), [3]),
          kvLen: raw.from(Int32Array.of(65, 3), [2]),
          blockTable: raw.from(Int32Array.of(0, 1, 2, 9), [2, 2]),
          scale: 1,
          maxQ: 3,
        };
        for (const [name, make] of Object.entries(change)) t[name] = make(raw);
        const { code, op, message } = await refusal(raw, () => raw.kernels.attention(raw.d, words(t)));
        expect((await raw.bytes(t.out!)).every((byte) => byte === 255)).toBe(true);
        return { code, op, message: message.replace(/on [\w:]+/, "") };
      });
    const indices =
      (...values: number[]) =>
      (raw: Raw) =>
        raw.from(Int32Array.from(values), [values.length]);
    const table =
      (...values: number[]) =>
      (raw: Raw) =>
        raw.from(Int32Array.from(values), [2, 2]);
    const packed = {
      kvLen: () => 0,
      blockTable: () => 0,
      k: (raw: Raw) => raw.out([5, 1, 8]),
      v: (raw: Raw) => raw.out([5, 1, 8]),
    };
    for (const change of [
      { kvLen: indices(65, 2) },
      { kvLen: indices(129, 3) },
      { blockTable: table(0, 3, 2, 0) },
      { blockTable: table(0, 1, -1, 0) },
      { blockTable: table(0, 7, 2, 0), kvLen: indices(65, 2) },
      { cuQ: indices(0, 5, 4) },
      { cuQ: indices(0, 3, 5) },
      { cuQ: indices(1, 3, 4) },
      packed,
      { ...packed, cuK: indices(0, 4, 3) },
      { ...packed, cuK: indices(0, 6, 5) },
    ]) {
      const [emu, cpu] = await Promise.all([refused(cuda, change), refused("cpu", change)]);
      expect(emu).toEqual(cpu);
      expect(emu.code).toBe("INVALID");
    }
  });
});
