import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { type AdafactorOptions, adafactorStep } from "../reference/adafactor.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { header, readHeader, segmentBytes } from "./optim.js";
import { devices, isas, Raw, refusal, sameBits, withRaw } from "./raw.js";

const BASE: AdafactorOptions = {
  lr: 0.01,
  eps: [1e-30, 1e-3],
  clipThreshold: 1,
  decayRate: -0.8,
  weightDecay: 0,
  scaleParameter: false,
  relativeStep: false,
  warmupInit: false,
};
const VARIANTS: [string, Partial<AdafactorOptions>, number][] = [
  ["a given learning rate", { weightDecay: 0.05 }, 0],
  ["clipped gradients, another decay", { decayRate: -0.5, clipThreshold: 0.3, eps: [1e-8, 1e-3] }, 0.5],
  ["relative step, scaled by the parameter", { relativeStep: true, scaleParameter: true }, 0],
  ["warm-up and a first moment", { relativeStep: true, scaleParameter: true, warmupInit: true, beta1: 0.9, weightDecay: 0.1 }, 1],
];
/** A matrix, a vector, several matrices, a single row, a single column, and one number. */
const SHAPES = [[7, 65], [129], [3, 5, 4], [1, 33], [70, 1], [1]];
const size = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);

/** Segments one after the other at multiples of 256, with their second moments packed. */
function layout(shapes: readonly (readonly number[])[], lrScale: number, weightDecay: number) {
  const at = { begin: 0, v: 0, row: 0, col: 0 };
  const words: number[] = [];
  const parts = shapes.map((shape) => {
    const own = { ...at, shape, end: at.begin + size(shape), lrScale, weightDecay };
    const [rows, cols] = shape.slice(-2) as [number, number];
    if (shape.length > 1) {
      words.push(rows, cols, at.row, at.col);
      at.row += size(shape) / cols;
      at.col += size(shape) / rows;
    } else {
      words.push(0, 0, at.v, 0);
      at.v += size(shape);
    }
    at.begin = Math.ceil(own.end / 256) * 256;
    return own;
  });
  return { parts, n: at.begin, totals: at, shapes: new Uint8Array(BigInt64Array.from(words.map(BigInt)).buffer) };
}

describe.each(devices)("adafactor on %s", (device) => {
  it.each(VARIANTS)("%s: equals float64 over five steps, each parameter by its shape", async (_, variant, clip) => {
    await withRaw(device, async (raw) => {
      const o = { ...BASE, ...variant };
      const { parts, n, totals, shapes } = layout(SHAPES, o.relativeStep ? 1 : 2, o.weightDecay);
      const param = gaussian(n, 1);
      const zeros = (count: number) => raw.from(new Float32Array(count), [count]);
      const p = raw.from(param, [n]);
      const m = o.beta1 === undefined ? 0 : zeros(n);
      const [v, row, col] = [zeros(totals.v), zeros(totals.row), zeros(totals.col)];
      const [head, table] = [header(raw), raw.from(segmentBytes(parts), [32 * parts.length])];
      const shapeTable = raw.from(shapes, [shapes.length]);
      const expected = Float64Array.from(param);
      const states = parts.map(({ shape }) => ({
        m: new Float64Array(size(shape)),
        row: new Float64Array(shape.length > 1 ? size(shape) / shape.at(-1)! : 0),
        col: new Float64Array(shape.length > 1 ? size(shape) / shape.at(-2)! : 0),
        v: new Float64Array(shape.length > 1 ? 0 : size(shape)),
      }));
      for (let step = 1; step <= 5; step++) {
        const grad = gaussian(n, 10 + step, 10 ** (-step % 3));
        grad.fill(0, 3, 9); // some gradients are nothing
        const norm = Math.sqrt(grad.reduce((sum, g) => sum + g * g, 0));
        const factor = clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1;
        const g = raw.from(grad, [n]);
        raw.kernels.gradStats(raw.d, head, g, 0);
        const flags = [o.scaleParameter, o.relativeStep, o.warmupInit].map(Number) as [number, number, number];
        const settings = [o.lr, ...o.eps, o.clipThreshold, o.decayRate, o.beta1 ?? 0, ...flags, clip] as const;
        raw.kernels.adafactor(raw.d, p, g, m, v, row, col, head, table, shapeTable, ...settings);
        for (const [i, { begin, end, shape, lrScale }] of parts.entries()) {
          const clipped = Float64Array.from(grad.subarray(begin, end), (x) => x * factor);
          adafactorStep(expected.subarray(begin, end), shape, states[i]!, clipped, step, { ...o, lr: o.lr * lrScale });
        }
      }
      expect(relativeError(await raw.f32(p), expected)).toBeLessThan(2e-6);
      const packed = (key: "row" | "col" | "v") => Float64Array.from(states.flatMap((s) => [...s[key]]));
      expect(relativeError(await raw.f32(row), packed("row"))).toBeLessThan(2e-6);
      expect(relativeError(await raw.f32(col), packed("col"))).toBeLessThan(2e-6);
      expect(relativeError(await raw.f32(v), packed("v"))).toBeLessThan(2e-6);
      if (m !== 0) {
        const got = await raw.f32(m);
        for (const [i, { begin, end }] of parts.entries())
          expect(relativeError(got.subarray(begin, end), states[i]!.m)).toBeLessThan(2e-6);
      }
      expect(await readHeader(raw, head)).toMatchObject({ step: 5, skipped: 0 });
    });
  });

  it("changes nothing in a step that is not finite", async () => {
    await withRaw(device, async (raw) => {
      const { parts, n, totals, shapes } = layout(SHAPES, 1, 0.1);
      const grad = gaussian(n, 2);
      grad[10] = Number.NaN;
      const [p, g, m, v, row, col] = [n, n, n, totals.v, totals.row, totals.col].map((count, i) =>
        raw.from(i === 1 ? grad : gaussian(count, i), [count]),
      ) as [number, number, number, number, number, number];
      const [head, table] = [header(raw), raw.from(segmentBytes(parts), [32 * parts.length])];
      const all = () => Promise.all([p, m, v, row, col].map((t) => raw.bytes(t)));
      const before = await all();
      raw.kernels.gradStats(raw.d, head, g, 0);
      const shapeTable = raw.from(shapes, [shapes.length]);
      raw.kernels.adafactor(raw.d, p, g, m, v, row, col, head, table, shapeTable, 0.1, 1e-30, 1e-3, 1, -0.8, 0.9, 1, 1, 1, 1);
      expect(sameBits(await all(), before)).toBe(true);
    });
  });
});

describe("adafactor", () => {
  it.each(isas)("gives the same bits with 1, 2 and 4 threads on %s", async (isa) => {
    const results = [];
    for (const threads of [1, 2, 4]) {
      const raw = new Raw(`cpu:${isa}:${threads}`);
      const { parts, n, totals, shapes } = layout([[300, 257], [70_001]], 1, 0);
      const [p, g] = [raw.from(gaussian(n, 1), [n]), raw.from(gaussian(n, 2), [n])];
      const [v, row, col] = [totals.v, totals.row, totals.col].map((count) => raw.from(new Float32Array(count), [count])) as [
        number,
        number,
        number,
      ];
      const [head, table] = [header(raw), raw.from(segmentBytes(parts), [64])];
      raw.kernels.gradStats(raw.d, head, g, 0);
      raw.kernels.adafactor(
        raw.d,
        p,
        g,
        0,
        v,
        row,
        col,
        head,
        table,
        raw.from(shapes, [64]),
        0.1,
        1e-30,
        1e-3,
        1,
        -0.8,
        0,
        1,
        0,
        0,
        1,
      );
      results.push(await Promise.all([p, v, row, col].map((t) => raw.bytes(t))));
      raw.dispose();
    }
    expect(sameBits(results[1]!, results[0])).toBe(true);
    expect(sameBits(results[2]!, results[0])).toBe(true);
  });

  it.each(["cpu", cuda])(
    "refuses shapes that are not those of their segments, and settings out of range, on %s",
    async (device) => {
      await withRaw(device, async (raw) => {
        const [p, g] = [0, 1].map(() => raw.from(new Float32Array(512), [512])) as [number, number];
        const [v, row, col] = [0, 1, 2].map(() => raw.from(new Float32Array(300), [300])) as [number, number, number];
        const message = async (shape: number[], { decay = -0.8, threshold = 1, beta1 = 0 } = {}) => {
          const table = raw.from(segmentBytes([{ begin: 0, end: 300 }]), [32]);
          const shapes = raw.from(new Uint8Array(BigInt64Array.from(shape.map(BigInt)).buffer), [8 * shape.length]);
          const call = () =>
            raw.kernels.adafactor(
              raw.d,
              p,
              g,
              0,
              v,
              row,
              col,
              header(raw),
              table,
              shapes,
              1,
              0,
              0,
              threshold,
              decay,
              beta1,
              0,
              0,
              0,
              0,
            );
          return (await refusal(raw, call)).message;
        };
        expect(await message([7, 43, 0, 0])).toContain("shape 0 is 7 x 43, which its segment of 300 elements is no multiple of");
        expect(await message([-10, -30, 0, 0])).toContain("no multiple");
        expect(await message([10, 30, 295, 0])).toContain("has 10 elements from 295 of exp_avg_sq_row");
        expect(await message([10, 30, 0, -1])).toContain("from -1 of exp_avg_sq_col");
        expect(await message([0, 0, 1, 0])).toContain("has 300 elements from 1 of exp_avg_sq");
        expect(await message([10, 30, 0, 0, 0, 0, 0, 0])).toContain("shapes must have 32 elements");
        expect(await message([10, 30, 0, 0], { decay: 0.5 })).toContain("decay_rate must be");
        expect(await message([10, 30, 0, 0], { threshold: 0 })).toContain("clip_threshold must be positive");
        expect(await message([10, 30, 0, 0], { beta1: 1 })).toContain("beta1 must be in");
      });
    },
  );
});
