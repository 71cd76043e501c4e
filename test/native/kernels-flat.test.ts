import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { gaussian, relativeError, weighted } from "../reference/numeric.js";
import { philox } from "../reference/philox.js";
import { devices, isas, Raw, refusal, sameBits, withRaw } from "./raw.js";

const sizes = [1, 3, 65, 127, 40000];
const bf16 = (x: number): number => {
  const bits = new Uint32Array(Float32Array.of(x).buffer)[0] as number;
  return Number.isNaN(x) ? (bits >>> 16) | 0x40 : ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
};
/** Which bits a NaN has is the device's own business. */
const one = (h: number): number => ((h & 0x7fff) > 0x7f80 ? 0x7fc0 : h);
const widen = (h: number): number => new Float32Array(Uint32Array.of(h << 16).buffer)[0] as number;

describe.each(devices)("flat kernels on %s", (device) => {
  it.each(sizes)("fill, axpy and add, %i elements", async (n) => {
    await withRaw(device, async (raw) => {
      const [a, b] = [gaussian(n, 1), gaussian(n, 2)] as const;
      const t = {
        a: raw.from(a, [n]),
        b: raw.from(b, [n]),
        sum: raw.out([n]),
        y: raw.from(a, [n]),
        filled: raw.out([n]),
        i: raw.out([n], "int32"),
      };
      raw.kernels.add(raw.d, t.sum, t.a, t.b);
      raw.kernels.axpy(raw.d, t.y, t.b, -0.5);
      raw.kernels.fill(raw.d, t.filled, 1.5);
      raw.kernels.fill(raw.d, t.i, -7);
      expect(
        sameBits(
          await raw.f32(t.sum),
          a.map((x, i) => x + (b[i] as number)),
        ),
      ).toBe(true);
      expect(
        relativeError(
          await raw.f32(t.y),
          Float64Array.from(a, (x, i) => x - 0.5 * (b[i] as number)),
        ),
      ).toBeLessThan(2e-7);
      expect(sameBits(await raw.f32(t.filled), new Float32Array(n).fill(1.5))).toBe(true);
      expect(sameBits(await raw.i32(t.i), new Int32Array(n).fill(-7))).toBe(true);
    });
  });

  it.each(sizes)("copy rounds to bf16 and f16 to nearest even and back, %i elements", async (n) => {
    await withRaw(device, async (raw) => {
      const x = gaussian(n, 3, 100);
      if (n > 8)
        x.set([1 + 2 ** -8, 1 + 3 * 2 ** -8, 65519, 65520, 2 ** -25, 1.5 * 2 ** -24, Number.NaN, Number.NEGATIVE_INFINITY], 0);
      const t = {
        x: raw.from(x, [n]),
        bf: raw.out([n], "bfloat16"),
        half: raw.out([n], "float16"),
        fromBf: raw.out([n]),
        fromHalf: raw.out([n]),
      };
      raw.kernels.copy(raw.d, t.bf, t.x);
      raw.kernels.copy(raw.d, t.half, t.x);
      raw.kernels.copy(raw.d, t.fromBf, t.bf);
      raw.kernels.copy(raw.d, t.fromHalf, t.half);
      const expected = Uint16Array.from(x, bf16);
      const rounded16 = (await raw.u16(t.bf)).map(one);
      expect(sameBits(rounded16, expected.map(one))).toBe(true);
      const widened = new Uint16Array((await raw.f32(t.fromBf)).buffer).filter((_, i) => i % 2 === 1).map(one);
      expect(sameBits(widened, rounded16)).toBe(true);
      const halves = await raw.f32(t.fromHalf);
      if (n > 8)
        expect([...halves.slice(2, 8)]).toEqual([
          65504,
          Number.POSITIVE_INFINITY,
          0,
          2 ** -23,
          Number.NaN,
          Number.NEGATIVE_INFINITY,
        ]);
      const rounded = (h: number, i: number) =>
        (n > 8 && i < 8) || Math.abs(h - (x[i] as number)) <= Math.abs(x[i] as number) * 2 ** -11 + 2 ** -25;
      expect(halves.every(rounded)).toBe(true);
    });
  });

  it.each(sizes)("dot in float64 and scale_rows, %i elements", async (n) => {
    await withRaw(device, async (raw) => {
      const [a, b] = [gaussian(n, 4), gaussian(n, 5)] as const;
      const t = { a: raw.from(a, [n]), b: raw.from(b, [n]), y: raw.from([2], [1]), sum: raw.out([1]) };
      raw.kernels.dot(raw.d, t.y, t.a, t.b, 0.5, 1);
      raw.kernels.dot(raw.d, t.sum, t.a, 0, 1, 0);
      expect(relativeError(await raw.f32(t.y), [2 + 0.5 * weighted(a, b)])).toBeLessThan(1e-6);
      expect(relativeError(await raw.f32(t.sum), [a.reduce((s, x) => s + x, 0)])).toBeLessThan(1e-5);
      const rows = 7;
      const y = raw.from(new Float32Array(rows * n).fill(1), [rows, n]);
      const x = gaussian(rows * n, 6);
      const s = gaussian(rows, 7);
      raw.kernels.scaleRows(raw.d, y, raw.from(x, [rows, n]), raw.from(s, [rows]), 1);
      expect(
        relativeError(
          await raw.f32(y),
          Float64Array.from(x, (v, i) => 1 + v * (s[Math.floor(i / n)] as number)),
        ),
      ).toBeLessThan(2e-7);
    });
  });

  it("random takes the words of philox in order, uniform and normal", async () => {
    await withRaw(device, async (raw) => {
      const key = 0x0123456789abcdefn;
      const n = 40001;
      const t = { u: raw.out([n]), z: raw.out([n]) };
      raw.kernels.random(raw.d, t.u, 0, -2, 3, key);
      raw.kernels.random(raw.d, t.z, 1, 1, 2, key);
      const [u, z] = [await raw.f32(t.u), await raw.f32(t.z)];
      for (const e of [0, 1, 63, 64, 16383, 16384, 40000]) {
        const words = philox(key, BigInt(e >> 2));
        const word = words[e % 4] as number;
        expect(u[e]).toBe(Math.fround(-2 + Math.fround(5 * ((word >>> 8) / 2 ** 24))));
        const [first, second] = words.slice(e % 4 < 2 ? 0 : 2) as [number, number];
        const radius = Math.sqrt(-2 * Math.log((first + 0.5) / 2 ** 32));
        const angle = (2 * Math.PI * second) / 2 ** 32;
        expect(z[e]).toBeCloseTo(1 + 2 * radius * (e % 2 ? Math.sin(angle) : Math.cos(angle)), 5);
      }
      expect(Math.min(...u.slice(0, 9999))).toBeGreaterThanOrEqual(-2);
      expect(Math.max(...u.slice(0, 9999))).toBeLessThan(3);
      expect(z.reduce((a, b) => a + b, 0) / n).toBeCloseTo(1, 1);
    });
  });

  it("embedding gathers rows of any float type; its gradient adds repeated ids", async () => {
    await withRaw(device, async (raw) => {
      for (const d of [1, 65, 130]) {
        const table = gaussian(5 * d, 8);
        const ids = Int32Array.of(4, 0, 4, 2, 4);
        const t = {
          table: raw.from(table, [5, d]),
          ids: raw.from(ids, [5]),
          y: raw.out([5, d]),
          half: raw.out([5, d], "bfloat16"),
          y16: raw.out([5, d]),
        };
        raw.kernels.copy(raw.d, t.half, t.table);
        raw.kernels.embedding(raw.d, t.y, t.table, t.ids, 2);
        raw.kernels.embedding(raw.d, t.y16, t.half, t.ids, 1);
        const row = (data: Float32Array, i: number) => [...data.slice(i * d, (i + 1) * d)];
        const [y, y16] = [await raw.f32(t.y), await raw.f32(t.y16)];
        ids.forEach((id, i) => {
          expect(row(y, i)).toEqual(row(table, id).map((x) => 2 * x));
          expect(row(y16, i)).toEqual(row(table, id).map((x) => widen(bf16(x))));
        });
        const dy = gaussian(5 * d, 9);
        const dtable = raw.from(new Float32Array(5 * d).fill(1), [5, d]);
        raw.kernels.embeddingGrad(raw.d, dtable, raw.from(dy, [5, d]), t.ids, 0.5);
        const expected = new Float64Array(5 * d).fill(1);
        for (const [i, id] of ids.entries())
          for (const [j, g] of row(dy, i).entries()) expected[id * d + j] = (expected[id * d + j] as number) + 0.5 * g;
        expect(relativeError(await raw.f32(dtable), expected)).toBeLessThan(3e-7);
      }
    });
  });
});

describe("flat kernels", () => {
  it("give the same bits on every variant where nothing is fused: random and conversions", async () => {
    const results = await Promise.all(
      isas.map((isa) =>
        withRaw(`cpu:${isa}`, async (raw) => {
          const t = { z: raw.out([1000]), half: raw.out([1000], "float16") };
          raw.kernels.random(raw.d, t.z, 1, 0, 1, 99n);
          raw.kernels.copy(raw.d, t.half, t.z);
          return [await raw.bytes(t.z), await raw.bytes(t.half)];
        }),
      ),
    );
    for (const result of results) expect(sameBits(result, results[0])).toBe(true);
  });

  it("give the same bits with 1, 2 and 4 threads", async () => {
    const n = 300_001;
    const results = [];
    for (const raw of [new Raw(`cpu:${isas.at(-1)}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)]) {
      const [y, z] = [raw.out([1]), raw.out([n])];
      raw.kernels.dot(raw.d, y, raw.from(gaussian(n, 1), [n]), raw.from(gaussian(n, 2), [n]), 1, 0);
      raw.kernels.random(raw.d, z, 1, 0, 1, 5n);
      results.push([await raw.bytes(y), await raw.bytes(z)]);
      raw.dispose();
    }
    expect(sameBits(results[1]!, results[0])).toBe(true);
    expect(sameBits(results[2]!, results[0])).toBe(true);
  });

  it.each(["cpu", cuda])("refuse ids outside the table and shapes that differ, on %s", async (device) => {
    await withRaw(device, async (raw) => {
      const t = { table: raw.out([5, 2]), y: raw.out([1, 2]) };
      const ids = await refusal(raw, () => raw.kernels.embedding(raw.d, t.y, t.table, raw.from(Int32Array.of(5), [1]), 1));
      expect(ids.message).toContain("ids[0] is 5 but the table has 5 rows");
      const sizes = await refusal(raw, () => raw.kernels.add(raw.d, t.y, t.table, t.table));
      expect(sizes.message).toContain("y must have 10 elements but has 2");
    });
  });
});
