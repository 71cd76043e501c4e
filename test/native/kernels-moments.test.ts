/** Adam, AdamW and Lion at every width of their moments. */
import { describe, expect, it } from "vitest";
import { dynamicMap } from "../../src/quant/codes.js";
import { cuda } from "../cuda-device.js";
import { adamwStep } from "../reference/adamw.js";
import { lionStep } from "../reference/lion.js";
import { decode8, encode8 } from "../reference/moments8.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { adamw32, header, readHeader, type Segment, segmentBytes } from "./optim.js";
import { devices, isas, Raw, refusal, sameBits, withRaw } from "./raw.js";
import { bfloat16Bits, fromBfloat16 } from "./weights.js";

const SIGNED = dynamicMap(true);
const MAPS = Float32Array.from([...SIGNED, ...dynamicMap(false)]);
const N = 3000;
/** One of 8 bits whose last block is short, one of 32, one of 8 again: the moments of each width follow each other. */
const SEGMENTS: Segment[] = [
  { begin: 0, end: 1000, bits: 8, block: 0, weightDecay: 0.1 },
  { begin: 1024, end: 1100, bits: 32, block: 0, lrScale: 16 },
  { begin: 1280, end: N, bits: 8, block: 4, lrScale: 2, weightDecay: 0.3 },
];
const PLACES = SEGMENTS.map(({ block, begin, end }) => [256 * block!, 256 * block! + end - begin] as const);
const BLOCKS = 11;

/** How many codes differ, and by how much at most. */
function distance(got: ArrayLike<number>, want: ArrayLike<number>): { share: number; most: number } {
  const far = Array.from(want, (code, i) => Math.abs(code - got[i]!));
  return { share: far.filter((d) => d > 0).length / far.length, most: Math.max(...far) };
}

/** The moments of both widths on a device, from random ones. */
function moments(raw: Raw, seed: number, map: ArrayLike<number>, positive: boolean) {
  const values = Float64Array.from(gaussian(256 * BLOCKS, seed, 0.1), (x) => (positive ? x * x : x));
  const { codes, absmax } = encode8(values, map);
  return {
    state: raw.from(codes, [256 * BLOCKS]),
    absmax: raw.from(Float32Array.from(absmax), [BLOCKS]),
    wide: raw.from(Float32Array.from(values.subarray(0, 256)), [256]),
  };
}

/** Moment of a segment as float64, before or after a step. */
async function read(raw: Raw, m: ReturnType<typeof moments>, map: ArrayLike<number>, s: number): Promise<Float64Array> {
  const [from, to] = PLACES[s]!;
  if (SEGMENTS[s]!.bits === 32) return Float64Array.from((await raw.f32(m.wide)).subarray(from, to));
  return decode8((await raw.bytes(m.state)).subarray(from, to), (await raw.f32(m.absmax)).subarray(from / 256), map);
}

/** Codes and absmax of a segment against those of `values`; 32-bit values against themselves. */
async function compare(raw: Raw, m: ReturnType<typeof moments>, map: ArrayLike<number>, s: number, values: Float64Array) {
  const [from, to] = PLACES[s]!;
  if (SEGMENTS[s]!.bits === 32) {
    expect(relativeError((await raw.f32(m.wide)).subarray(from, to), values)).toBeLessThan(1e-6);
    return;
  }
  const want = encode8(values, map);
  const absmax = (await raw.f32(m.absmax)).subarray(from / 256, Math.ceil(to / 256));
  expect(relativeError(absmax, want.absmax)).toBeLessThan(1e-6);
  const { share, most } = distance((await raw.bytes(m.state)).subarray(from, to), want.codes);
  expect(most).toBeLessThanOrEqual(1);
  expect(share).toBeLessThan(0.002);
}

describe.each(devices)("moments on %s", (device) => {
  it.each([
    ["AdamW", 1],
    ["Adam with L2 decay", 0],
  ])("%s: segments of 8 and of 32 bits equal float64, each step from the codes of the last", async (_, decoupled) => {
    await withRaw(device, async (raw) => {
      const p = raw.from(gaussian(N, 1), [N]);
      const [m, v] = [moments(raw, 2, SIGNED, false), moments(raw, 3, MAPS.subarray(256), true)];
      const [head, table, maps] = [header(raw), raw.from(segmentBytes(SEGMENTS), [96]), raw.from(MAPS, [2, 256])];
      for (let step = 1; step <= 3; step++) {
        const before = await raw.f32(p);
        const old = await Promise.all(SEGMENTS.flatMap((_, s) => [read(raw, m, SIGNED, s), read(raw, v, MAPS.subarray(256), s)]));
        const grad = gaussian(N, 10 + step, 10 ** -step);
        const clip = Math.min(1, 0.7 / (Math.sqrt(grad.reduce((sum, g) => sum + g * g, 0)) + 1e-6));
        const g = raw.from(grad, [N]);
        raw.kernels.gradStats(raw.d, head, g, 0);
        raw.kernels.adamw(
          raw.d,
          p,
          g,
          m.wide,
          v.wide,
          m.state,
          m.absmax,
          v.state,
          v.absmax,
          maps,
          head,
          table,
          0.01,
          0.9,
          0.995,
          1e-8,
          0.7,
          decoupled,
        );
        const expected = Float64Array.from(before);
        for (const [s, { begin, end, lrScale = 1, weightDecay = 0 }] of SEGMENTS.entries()) {
          const options = { lr: 0.01 * lrScale, beta1: 0.9, beta2: 0.995, eps: 1e-8, weightDecay, decoupled: decoupled === 1 };
          const clipped = Float64Array.from(grad.subarray(begin, end), (x) => x * clip);
          adamwStep(expected.subarray(begin, end), old[2 * s]!, old[2 * s + 1]!, clipped, step, options);
          await compare(raw, m, SIGNED, s, old[2 * s]!);
          await compare(raw, v, MAPS.subarray(256), s, old[2 * s + 1]!);
        }
        expect(relativeError(await raw.f32(p), expected)).toBeLessThan(2e-6);
      }
      expect((await raw.f32(p)).slice(1000, 1024)).toEqual(gaussian(N, 1).slice(1000, 1024));
    });
  });

  it("Lion: the same, with one moment", async () => {
    await withRaw(device, async (raw) => {
      const p = raw.from(gaussian(N, 1), [N]);
      const m = moments(raw, 2, SIGNED, false);
      const [head, table, map] = [header(raw), raw.from(segmentBytes(SEGMENTS), [96]), raw.from(SIGNED, [256])];
      for (let step = 1; step <= 3; step++) {
        const expected = Float64Array.from(await raw.f32(p));
        const old = await Promise.all(SEGMENTS.map((_, s) => read(raw, m, SIGNED, s)));
        const grad = gaussian(N, 10 + step, 0.3);
        const clip = Math.min(1, 5 / (Math.sqrt(grad.reduce((sum, g) => sum + g * g, 0)) + 1e-6));
        const g = raw.from(grad, [N]);
        raw.kernels.gradStats(raw.d, head, g, 0);
        raw.kernels.lion(raw.d, p, g, m.wide, m.state, m.absmax, map, head, table, 0.01, 0.9, 0.99, 5);
        for (const [s, { begin, end, lrScale = 1, weightDecay = 0 }] of SEGMENTS.entries()) {
          const clipped = Float64Array.from(grad.subarray(begin, end), (x) => x * clip);
          const options = { lr: 0.01 * lrScale, beta1: 0.9, beta2: 0.99, weightDecay };
          lionStep(expected.subarray(begin, end), old[s]!, clipped, options);
          await compare(raw, m, SIGNED, s, old[s]!);
        }
        expect(relativeError(await raw.f32(p), expected)).toBeLessThan(1e-6);
      }
      expect(await readHeader(raw, head)).toMatchObject({ step: 3, skipped: 0 });
    });
  });

  it("a block of zeros stays zeros, and no code takes the other sign", async () => {
    await withRaw(device, async (raw) => {
      const grad = new Float32Array(512);
      // Next to the largest all but nothing: the nearest code of a negative one is 0, which has no sign of its own.
      grad.set([1, -1e-9, 1e-9, 0], 256);
      const [p, g] = [raw.from(new Float32Array(512), [512]), raw.from(grad, [512])];
      const [state, absmax] = [raw.from(new Uint8Array(512).fill(7), [512]), raw.from(new Float32Array(2), [2])];
      const [head, table, map] = [
        header(raw),
        raw.from(segmentBytes([{ begin: 0, end: 512, bits: 8 }]), [32]),
        raw.from(SIGNED, [256]),
      ];
      raw.kernels.gradStats(raw.d, head, g, 0);
      raw.kernels.lion(raw.d, p, g, 0, state, absmax, map, head, table, 0.5, 0.9, 0.99, 0);
      const values = decode8(await raw.bytes(state), await raw.f32(absmax), SIGNED);
      expect(values.subarray(0, 256).every((x) => x === 0)).toBe(true);
      expect([...values.subarray(256, 260)].map(Math.sign)).toEqual([1, -1, 0, 0]);
      expect([...(await raw.f32(p)).subarray(256, 260)]).toEqual([-0.5, 0.5, -0.5, 0]);
    });
  });

  it("a step that is not finite changes no byte of 8-bit moments", async () => {
    await withRaw(device, async (raw) => {
      const m = moments(raw, 2, SIGNED, false);
      const p = raw.from(gaussian(N, 1), [N]);
      const g = raw.from(gaussian(N, 2), [N]);
      const [head, table, map] = [header(raw), raw.from(segmentBytes(SEGMENTS), [96]), raw.from(SIGNED, [256])];
      const all = [p, m.state, m.absmax, m.wide];
      const before = await Promise.all(all.map((t) => raw.bytes(t)));
      raw.kernels.gradStats(raw.d, head, g, raw.from([Number.NaN], [1]));
      raw.kernels.lion(raw.d, p, g, m.wide, m.state, m.absmax, map, head, table, 0.01, 0.9, 0.99, 0);
      expect(sameBits(await Promise.all(all.map((t) => raw.bytes(t))), before)).toBe(true);
    });
  });

  it("bfloat16 parameters and moments are rounded as torch rounds them, operation by operation", async () => {
    await withRaw(device, async (raw) => {
      const n = 300;
      const round = (x: number) => fromBfloat16(bfloat16Bits(x));
      const half = (values: ArrayLike<number>) => Uint16Array.from(values, bfloat16Bits);
      const param = gaussian(n, 1).map(round);
      const t = [half(param), half(new Float32Array(n)), half(new Float32Array(n))].map((x) => raw.from(x, [n]));
      const [p, m, v] = t as [number, number, number];
      const [head, table] = [header(raw), raw.from(segmentBytes([{ begin: 0, end: n, weightDecay: 0.1 }]), [32])];
      const [wantM, wantV] = [new Float64Array(n), new Float64Array(n)];
      for (let step = 1; step <= 20; step++) {
        const grad = gaussian(n, 10 + step).map(round);
        const g = raw.from(grad, [n]);
        raw.kernels.gradStats(raw.d, head, g, 0);
        adamw32(raw, [p, g, m, v], [head, table], [0.01, 0.9, 0.999, 1e-8, 0]);
        for (let i = 0; i < n; i++) {
          const kept = round(param[i]! * (1 - 0.01 * 0.1));
          wantM[i] = round(wantM[i]! + (1 - 0.9) * (grad[i]! - wantM[i]!));
          wantV[i] = round(round(0.999 * wantV[i]!) + (1 - 0.999) * grad[i]! * grad[i]!);
          const denominator = round(round(round(Math.sqrt(wantV[i]!)) / Math.sqrt(1 - 0.999 ** step)) + 1e-8);
          param[i] = round(kept - (0.01 / (1 - 0.9 ** step)) * (wantM[i]! / denominator));
        }
      }
      const read = async (t: number) => Float32Array.from(await raw.u16(t), fromBfloat16);
      // A float32 product next to a tie may round to the other side now and then, and moves what follows by one unit.
      for (const [got, want] of [
        [await read(p), param],
        [await read(m), wantM],
        [await read(v), wantV],
      ] as const) {
        const off = Array.from(want, (x, i) => Math.abs(x - got[i]!) > 1e-9 * Math.abs(x)).filter(Boolean).length;
        expect(off / n).toBeLessThan(0.05);
        expect(relativeError(got, want)).toBeLessThan(0.01);
      }
    });
  });
});

describe("moments", () => {
  it.each(isas)("8-bit ones give the same bits with 1, 2 and 4 threads on %s", async (isa) => {
    const n = 100_000;
    const results = [];
    for (const threads of [1, 2, 4]) {
      const raw = new Raw(`cpu:${isa}:${threads}`);
      const [p, g] = [raw.from(gaussian(n, 1), [n]), raw.from(gaussian(n, 2), [n])];
      const [state1, state2] = [0, 1].map(() => raw.from(new Uint8Array(n), [n])) as [number, number];
      const [absmax1, absmax2] = [0, 1].map(() => raw.from(new Float32Array(391), [391])) as [number, number];
      const [head, table, maps] = [
        header(raw),
        raw.from(segmentBytes([{ begin: 0, end: n, bits: 8 }]), [32]),
        raw.from(MAPS, [2, 256]),
      ];
      for (let step = 0; step < 2; step++) {
        raw.kernels.gradStats(raw.d, head, g, 0);
        const state = [state1, absmax1, state2, absmax2, maps, head, table] as const;
        raw.kernels.adamw(raw.d, p, g, 0, 0, ...state, 0.01, 0.9, 0.999, 1e-8, 1, 1);
      }
      results.push(await Promise.all([p, state1, absmax1, state2, absmax2].map((t) => raw.bytes(t))));
      raw.dispose();
    }
    expect(sameBits(results[1]!, results[0])).toBe(true);
    expect(sameBits(results[2]!, results[0])).toBe(true);
  });

  it.each(["cpu", cuda])("are refused where they are missing or too short, on %s", async (device) => {
    await withRaw(device, async (raw) => {
      const [p, g, m] = [0, 1, 2].map(() => raw.from(new Float32Array(512), [512])) as [number, number, number];
      const map = raw.from(SIGNED, [256]);
      const [state, absmax] = [raw.from(new Uint8Array(512), [512]), raw.from(new Float32Array(2), [2])];
      const call = (s: Segment, state: number, absmax: number, map: number) => () =>
        raw.kernels.lion(raw.d, p, g, m, state, absmax, map, header(raw), raw.from(segmentBytes([s]), [32]), 0.1, 0.9, 0.99, 0);
      const eight = { begin: 0, end: 512, bits: 8 };
      const message = async (...args: Parameters<typeof call>) => (await refusal(raw, call(...args))).message;
      expect(await message(eight, 0, absmax, map)).toContain("state1 must be given");
      expect(await message(eight, state, 0, map)).toContain("absmax1 must be given");
      expect(await message(eight, state, absmax, 0)).toContain("qmap must be given");
      const short = raw.from(SIGNED.slice(0, 7), [7]);
      for (const bits of [8, 32])
        expect(await message({ ...eight, bits }, state, absmax, short)).toContain("qmap must have 256 elements but has 7");
      expect(await message({ ...eight, block: 1 }, state, absmax, map)).toContain(
        "state1 has 512 elements but the segments reach to 768",
      );
      expect(await message({ ...eight, bits: 7 }, state, absmax, map)).toContain("moments of 7 bits");
      const sgd = () => raw.kernels.sgd(raw.d, p, g, m, header(raw), raw.from(segmentBytes([eight]), [32]), 0.1, 0.9, 0, 0, 0);
      expect(await refusal(raw, sgd)).toMatchObject({ code: "UNSUPPORTED", op: "sgd" });
    });
  });
});
