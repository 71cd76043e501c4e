import { describe, expect, it } from "vitest";
import { isas, withRaw } from "./raw.js";

/** philox4x32-10 in bigints, after Salmon et al., SC11, section 3.4. */
function philox(counter: readonly bigint[], key: readonly [bigint, bigint]): bigint[] {
  let [c0, c1, c2, c3] = counter as [bigint, bigint, bigint, bigint];
  let [k0, k1] = key;
  const low = (x: bigint) => x & 0xffffffffn;
  for (let round = 0; round < 10; round++) {
    const a = c0 * 0xd2511f53n;
    const b = c2 * 0xcd9e8d57n;
    [c0, c1, c2, c3] = [(b >> 32n) ^ c1 ^ k0, low(b), (a >> 32n) ^ c3 ^ k1, low(a)];
    k0 = low(k0 + 0x9e3779b9n);
    k1 = low(k1 + 0xbb67ae85n);
  }
  return [c0, c1, c2, c3];
}

/** Word e of the stream of a key. */
function word(key: bigint, e: number): number {
  const block = BigInt(Math.floor(e / 4));
  return Number(philox([block & 0xffffffffn, block >> 32n, 0n, 0n], [key & 0xffffffffn, key >> 32n])[e % 4]);
}

const KEYS = [0n, 1n, 0x299f31d0a4093822n, 0xffffffffffffffffn, 0x8000000000000001n];

describe("philox", () => {
  it("in this file gives the known answers of Random123 1.14 (kat_vectors)", () => {
    const hex = (words: bigint[]) => words.map((w) => w.toString(16).padStart(8, "0")).join(" ");
    const ones = 0xffffffffn;
    expect(hex(philox([0n, 0n, 0n, 0n], [0n, 0n]))).toBe("6627e8d5 e169c58d bc57ac4c 9b00dbd8");
    expect(hex(philox([ones, ones, ones, ones], [ones, ones]))).toBe("408f276d 41c83b0e a20bc7c6 6d5451fd");
    expect(hex(philox([0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n], [0xa4093822n, 0x299f31d0n]))).toBe(
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    );
  });

  it.each(isas)("is what random draws: the upper 24 bits of each word, %s", async (isa) => {
    await withRaw(`cpu:${isa}`, async (raw) => {
      for (const key of KEYS) {
        const y = raw.out([1003]);
        raw.kernels.random(raw.d, y, 0, 0, 2 ** 24, key);
        const expected = Array.from({ length: 1003 }, (_, e) => word(key, e) >>> 8);
        expect([...(await raw.f32(y))]).toEqual(expected);
      }
    });
  });

  it.each(isas)("feeds Box-Muller with all 32 bits, %s", async (isa) => {
    await withRaw(`cpu:${isa}`, async (raw) => {
      const key = 0x0123456789abcdefn;
      const y = raw.out([257]);
      raw.kernels.random(raw.d, y, 1, 3, 0.5, key);
      const got = await raw.f32(y);
      for (let e = 0; e < 256; e += 2) {
        const radius = Math.sqrt(-2 * Math.log((word(key, e) + 0.5) / 2 ** 32));
        const angle = (2 * Math.PI * word(key, e + 1)) / 2 ** 32;
        expect(got[e]).toBeCloseTo(3 + 0.5 * radius * Math.cos(angle), 5);
        expect(got[e + 1]).toBeCloseTo(3 + 0.5 * radius * Math.sin(angle), 5);
      }
    });
  });
});

interface Format {
  dtype: "float16" | "bfloat16";
  /** Bits of the fraction, the smallest normal exponent, and the exponent bias. */
  fraction: number;
  minimum: number;
}
const FORMATS: Format[] = [
  { dtype: "float16", fraction: 10, minimum: -14 },
  { dtype: "bfloat16", fraction: 7, minimum: -126 },
];

/** Value of the 16 bits, from the definition of the format. */
function decode(bits: number, { fraction, minimum }: Format): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits & 0x7fff) >> fraction;
  const mantissa = bits & ((1 << fraction) - 1);
  const largest = (0x8000 >> fraction) - 1;
  if (exponent === largest) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * mantissa * 2 ** (minimum - fraction);
  return sign * (1 + mantissa / 2 ** fraction) * 2 ** (exponent - 1 + minimum);
}

/** float32 numbers around every number of the format: itself, its neighbours in float32, the midpoint to the next and the midpoint's neighbours. */
function around(format: Format): Float32Array {
  const bits: number[] = [];
  const u32 = new Uint32Array(1);
  const f32 = new Float32Array(u32.buffer);
  const infinity = ((0x8000 >> format.fraction) - 1) << format.fraction;
  for (let h = 0; h < infinity; h++) {
    const value = decode(h, format);
    // One step above the largest number lies where the next power of two would be.
    const next = h + 1 < infinity ? decode(h + 1, format) : 2 ** (1 - format.minimum + 1);
    for (const x of [value, (value + next) / 2]) {
      f32[0] = x;
      const at = u32[0] as number;
      for (const near of [at - 1, at, at + 1]) if (near >= 0 && near < 0x7f800000) bits.push(near, near + 0x80000000);
    }
  }
  bits.push(0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001, 0xffffffff, 0x7f7fffff, 1, 0x80000001);
  return new Float32Array(Uint32Array.from(bits).buffer);
}

/** Round to nearest, ties to even, by exact float64 arithmetic. */
function round(x: number, { fraction, minimum }: Format): number {
  if (!Number.isFinite(x) || x === 0) return x;
  const magnitude = Math.abs(x);
  let exponent = Math.floor(Math.log2(magnitude));
  if (2 ** exponent > magnitude) exponent--;
  if (2 ** (exponent + 1) <= magnitude) exponent++;
  const step = 2 ** (Math.max(exponent, minimum) - fraction);
  const steps = magnitude / step;
  const below = Math.floor(steps);
  const up = steps - below > 0.5 || (steps - below === 0.5 && below % 2 === 1);
  const rounded = (below + (up ? 1 : 0)) * step;
  return Math.sign(x) * (rounded >= 2 ** (2 - minimum) ? Number.POSITIVE_INFINITY : rounded);
}

describe.each(FORMATS)("$dtype", (format) => {
  it.each(isas)("decodes all 65536 patterns, %s", async (isa) => {
    await withRaw(`cpu:${isa}`, async (raw) => {
      const all = Uint16Array.from({ length: 65536 }, (_, i) => i);
      const y = raw.out([65536]);
      raw.kernels.copy(raw.d, y, raw.from(all, [65536], format.dtype));
      const got = await raw.f32(y);
      const wrong = [...got].flatMap((x, i) => (Object.is(x, decode(i, format)) ? [] : [i]));
      expect(wrong).toEqual([]);
    });
  });

  it.each(isas)("rounds to nearest even around every number, %s", async (isa) => {
    await withRaw(`cpu:${isa}`, async (raw) => {
      const x = around(format);
      const y = raw.out([x.length], format.dtype);
      raw.kernels.copy(raw.d, y, raw.from(x, [x.length]));
      const got = await raw.u16(y);
      const wrong = [...x].filter((value, i) => !Object.is(decode(got[i] as number, format), round(value, format)));
      expect(wrong).toEqual([]);
    });
  });
});
