import { describe, expect, it } from "vitest";
import { CODE_BOOKS, DYNAMIC_SIGNED, dynamicMap } from "../../src/quant/codes.js";
import { cuda } from "../cuda-device.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { quantize4bit, quantize8bit } from "../reference/quant.js";
import { addon, devices, refusal, sameBits, withRaw } from "./raw.js";

// The tables themselves are checked by the golden kinds nf4_tables and qmap.
const tables = { ...CODE_BOOKS, dynamic_signed: DYNAMIC_SIGNED, dynamic_unsigned: dynamicMap(false) };
const orders = { nf4: [...Array(16).keys()], fp4: [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3] };

describe.each(devices)("quantisation on %s", (device) => {
  const table = (name: keyof typeof tables) => tables[name];

  for (const type of ["nf4", "fp4"] as const) {
    it.each([
      [1, 64],
      [65, 64],
      [127, 32],
      [4096 * 3 + 777, 4096],
      [40003, 64],
      [20000, 256],
    ])(`${type}: %i elements in blocks of %i, byte for byte`, async (n, blocksize) => {
      await withRaw(device, async (raw) => {
        const x = gaussian(n, n);
        if (n > 500) {
          x.fill(0, 64, 128);
          // On the midpoints themselves the lower code wins.
          const values = orders[type].map((code) => table(type)[code] as number);
          const midpoints = Float32Array.from({ length: 15 }, (_, i) => ((values[i] as number) + (values[i + 1] as number)) / 2);
          x.set([1, ...midpoints], 256);
          x.fill(0.25, 272, 320);
        }
        const expected = quantize4bit(x, table(type), orders[type], blocksize);
        const t = {
          x: raw.from(x, [n]),
          codes: raw.out([Math.ceil(n / 2)], "uint8"),
          absmax: raw.out([expected.absmax.length]),
          bad: raw.from(Int32Array.of(0), [1]),
        };
        raw.kernels.quantize4bit(raw.d, t.codes, t.absmax, t.bad, t.x, type === "nf4" ? 0 : 1, blocksize);
        expect(sameBits(await raw.bytes(t.codes), expected.codes)).toBe(true);
        expect(await raw.f32(t.absmax)).toEqual(expected.absmax);
        expect(await raw.i32(t.bad)).toEqual(Int32Array.of(0));

        const code = raw.from(table(type), [16]);
        for (const round of [0, 1]) {
          const weight = addon.weight4bit(t.codes, t.absmax, 0, 0, 0, code, 1, n, blocksize, 0, round);
          const y = raw.out([1, n]);
          raw.kernels.dequantize4bit(raw.d, y, weight);
          const nibble = (i: number) => ((expected.codes[i >> 1] as number) >> (i % 2 ? 0 : 4)) & 15;
          const exact = Float32Array.from({ length: n }, (_, i) =>
            Math.fround((table(type)[nibble(i)] as number) * (expected.absmax[Math.floor(i / blocksize)] as number)),
          );
          const actual = await raw.f32(y);
          if (round === 0) expect(sameBits(actual, exact)).toBe(true);
          else {
            const half = raw.out([1, n], "bfloat16");
            const back = raw.out([1, n]);
            raw.kernels.copy(raw.d, half, raw.from(exact, [1, n]));
            raw.kernels.copy(raw.d, back, half);
            expect(sameBits(actual, await raw.f32(back))).toBe(true);
          }
          addon.freeWeight(weight);
        }
      });
    });
  }

  it("counts NaN and infinity, which spoil only their own block", async () => {
    await withRaw(device, async (raw) => {
      const x = gaussian(256, 1);
      const clean = quantize4bit(x, table("nf4"), orders.nf4, 64);
      x[70] = Number.NaN;
      x[71] = Number.NEGATIVE_INFINITY;
      const t = { codes: raw.out([128], "uint8"), absmax: raw.out([4]), bad: raw.from(Int32Array.of(5), [1]) };
      raw.kernels.quantize4bit(raw.d, t.codes, t.absmax, t.bad, raw.from(x, [256]), 0, 64);
      expect(await raw.i32(t.bad)).toEqual(Int32Array.of(7));
      const codes = await raw.bytes(t.codes);
      expect(codes.slice(0, 32)).toEqual(clean.codes.slice(0, 32));
      expect(codes.slice(64)).toEqual(clean.codes.slice(64));
    });
  });

  it.each(["dynamic_signed", "dynamic_unsigned"] as const)(
    "8-bit blocks with the %s map, and the nested form of absmax",
    async (name) => {
      await withRaw(device, async (raw) => {
        const map = table(name);
        for (const [n, blocksize] of [
          [1, 256],
          [1500, 256],
          [777, 64],
        ] as const) {
          const x = gaussian(n, 3);
          if (n > 600) x.fill(0, 256, 512);
          // Midpoints, where the even code wins.
          if (n > 1000)
            for (let i = 0; i < 256; i++) x[512 + i] = i === 0 ? 1 : ((map[i - 1] as number) + (map[i] as number)) / 2;
          if (name === "dynamic_unsigned") x.set(x.map(Math.abs));
          const expected = quantize8bit(x, map, blocksize);
          const blocks = expected.absmax.length;
          const t = {
            x: raw.from(x, [n]),
            map: raw.from(map, [256]),
            codes: raw.out([n], "uint8"),
            absmax: raw.out([blocks]),
            y: raw.out([n]),
          };
          raw.kernels.quantize8bit(raw.d, t.codes, t.absmax, t.x, t.map, blocksize);
          raw.kernels.dequantize8bit(raw.d, t.y, t.codes, t.absmax, t.map, blocksize);
          expect(sameBits(await raw.bytes(t.codes), expected.codes)).toBe(true);
          expect(await raw.f32(t.absmax)).toEqual(expected.absmax);
          expect(await raw.f32(t.y)).toEqual(
            Float32Array.from(
              expected.codes,
              (c, i) => (map[c] as number) * (expected.absmax[Math.floor(i / blocksize)] as number),
            ),
          );

          const offset = raw.out([1]);
          raw.kernels.quantizeAbsmax(raw.d, t.codes, t.absmax, offset, t.x, t.map, blocksize);
          const mean = Math.fround(x.reduce((a, b) => a + b, 0) / n);
          expect(relativeError(await raw.f32(offset), [mean])).toBeLessThan(1e-7);
          const nested = quantize8bit(
            x.map((value) => value - mean),
            map,
            blocksize,
          );
          expect(sameBits(await raw.bytes(t.codes), nested.codes)).toBe(true);
        }
      });
    },
  );
});

describe("quantisation", () => {
  it.each(["cpu", cuda])("refuses block sizes bitsandbytes has not, on %s", async (device) => {
    await withRaw(device, async (raw) => {
      const t = { x: raw.out([96]), codes: raw.out([48], "uint8"), absmax: raw.out([1]) };
      const error = await refusal(raw, () => raw.kernels.quantize4bit(raw.d, t.codes, t.absmax, 0, t.x, 0, 96));
      expect(error).toMatchObject({ code: "INVALID", op: "quantize_4bit" });
      expect(error.message).toContain("blocksize must be a power of two from 32 to 4096 but is 96");
    });
  });
});
