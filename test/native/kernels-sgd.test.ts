import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { sgdStep } from "../reference/sgd.js";
import { header, readHeader, segmentBytes } from "./optim.js";
import { devices, isas, Raw, refusal, sameBits, withRaw } from "./raw.js";

const segment = (begin: number, end: number, lrScale: number, weightDecay: number) =>
  segmentBytes([{ begin, end, lrScale, weightDecay }]);

async function counters(raw: Raw, head: number): Promise<number[]> {
  const { step, skipped, consecutive } = await readHeader(raw, head);
  return [step, skipped, consecutive];
}

const VARIANTS = [
  { momentum: 0, dampening: 0, nesterov: false, weightDecay: 0 },
  { momentum: 0, dampening: 0, nesterov: false, weightDecay: 0.1 },
  { momentum: 0.9, dampening: 0, nesterov: false, weightDecay: 0.1 },
  { momentum: 0.9, dampening: 0.3, nesterov: false, weightDecay: 0 },
  { momentum: 0.8, dampening: 0, nesterov: true, weightDecay: 0.1 },
];

describe.each(devices)("sgd on %s", (device) => {
  it.each(VARIANTS)("equals float64 over six clipped steps: %o", async (variant) => {
    await withRaw(device, async (raw) => {
      for (const n of [1, 65, 40000]) {
        const param = gaussian(n, 1);
        const t = {
          p: raw.from(param, [n]),
          // What the buffer held before the first step does not count.
          b: variant.momentum === 0 ? 0 : raw.from(new Float32Array(n).fill(7), [n]),
          header: header(raw),
          segments: raw.from(segment(0, n, 2, variant.weightDecay), [32]),
        };
        const expected = { p: Float64Array.from(param), b: new Float64Array(n) };
        for (let step = 1; step <= 6; step++) {
          const grad = gaussian(n, 100 + step, 10 ** (-step % 4));
          const clip = Math.min(1, 0.5 / (Math.sqrt(grad.reduce((s, g) => s + g * g, 0)) + 1e-6));
          const g = raw.from(grad, [n]);
          raw.kernels.gradStats(raw.d, t.header, g, 0);
          const { momentum, dampening, nesterov } = variant;
          raw.kernels.sgd(raw.d, t.p, g, t.b, t.header, t.segments, 0.05, momentum, dampening, nesterov ? 1 : 0, 0.5);
          const clipped = Float64Array.from(grad, (x) => x * clip);
          sgdStep(expected.p, expected.b, clipped, step, { ...variant, lr: 0.1 });
        }
        expect(relativeError(await raw.f32(t.p), expected.p)).toBeLessThan(1e-6);
        if (t.b !== 0) expect(relativeError(await raw.f32(t.b), expected.b)).toBeLessThan(1e-6);
        expect(await counters(raw, t.header)).toEqual([6, 0, 0]);
      }
    });
  });

  it("gives segments their own rate and decay and leaves the rest alone", async () => {
    await withRaw(device, async (raw) => {
      const n = 1024;
      const [param, grad] = [gaussian(n, 1), gaussian(n, 2)] as const;
      const table = new Uint8Array([...segment(0, 100, 1, 0.5), ...segment(512, 700, 16, 0)]);
      const t = {
        p: raw.from(param, [n]),
        g: raw.from(grad, [n]),
        b: raw.from(new Float32Array(n), [n]),
        header: header(raw),
        segments: raw.from(table, [64]),
      };
      raw.kernels.gradStats(raw.d, t.header, t.g, 0);
      raw.kernels.sgd(raw.d, t.p, t.g, t.b, t.header, t.segments, 0.01, 0.9, 0, 0, 0);
      const expected = Float64Array.from(param);
      const plain = { momentum: 0, dampening: 0, nesterov: false };
      sgdStep(expected.subarray(0, 100), new Float64Array(100), grad, 1, { ...plain, lr: 0.01, weightDecay: 0.5 });
      sgdStep(expected.subarray(512, 700), new Float64Array(188), grad.subarray(512), 1, { ...plain, lr: 0.16, weightDecay: 0 });
      expect(relativeError(await raw.f32(t.p), expected)).toBeLessThan(1e-6);
      expect((await raw.f32(t.p)).slice(100, 512)).toEqual(param.slice(100, 512));
      expect((await raw.f32(t.b)).slice(100, 512)).toEqual(new Float32Array(412));
    });
  });

  it.each([
    ["NaN in the gradient", Number.NaN, 1],
    ["infinity in the gradient", Number.POSITIVE_INFINITY, 1],
    ["a loss that is not finite", 1, Number.NaN],
  ])("skips a step with %s: only the counters move", async (_, last, loss) => {
    await withRaw(device, async (raw) => {
      const n = 300;
      const grad = gaussian(n, 2);
      grad[299] = last;
      const t = {
        p: raw.from(gaussian(n, 1), [n]),
        g: raw.from(grad, [n]),
        b: raw.from(gaussian(n, 3), [n]),
        header: header(raw),
        segments: raw.from(segment(0, n, 1, 0.1), [32]),
      };
      const before = await Promise.all([t.p, t.b].map((h) => raw.bytes(h)));
      for (let i = 0; i < 2; i++) {
        raw.kernels.gradStats(raw.d, t.header, t.g, raw.from([loss], [1]));
        raw.kernels.sgd(raw.d, t.p, t.g, t.b, t.header, t.segments, 0.01, 0.9, 0, 0, 1);
      }
      expect(sameBits(await Promise.all([t.p, t.b].map((h) => raw.bytes(h))), before)).toBe(true);
      expect(await counters(raw, t.header)).toEqual([0, 2, 2]);
    });
  });
});

describe.each(isas)("sgd on cpu:%s", (isa) => {
  it("gives the same bits with 1, 2 and 4 threads", async () => {
    const n = 200_000;
    const results = [];
    for (const threads of [1, 2, 4]) {
      // A device keeps its threads: one name for each number.
      const raw = new Raw(`cpu:${isa}:${threads}`);
      const t = {
        p: raw.from(gaussian(n, 1), [n]),
        g: raw.from(gaussian(n, 2), [n]),
        b: raw.from(new Float32Array(n), [n]),
        header: header(raw),
        segments: raw.from(segment(0, n, 1, 0.1), [32]),
      };
      for (let step = 0; step < 2; step++) {
        raw.kernels.gradStats(raw.d, t.header, t.g, 0);
        raw.kernels.sgd(raw.d, t.p, t.g, t.b, t.header, t.segments, 0.01, 0.9, 0, 1, 1);
      }
      results.push(await Promise.all([t.p, t.b, t.header].map((h) => raw.bytes(h))));
      raw.dispose();
    }
    expect(sameBits(results[1]!, results[0])).toBe(true);
    expect(sameBits(results[2]!, results[0])).toBe(true);
  });
});

describe("sgd", () => {
  it.each(["cpu", cuda])("refuses a momentum without buffer, and nesterov without momentum, on %s", async (device) => {
    await withRaw(device, async (raw) => {
      const [p, g, b] = [0, 1, 2].map(() => raw.from(new Float32Array(512), [512])) as [number, number, number];
      const head = header(raw);
      const segments = raw.from(segment(0, 512, 1, 0), [32]);
      const call = (buffer: number, momentum: number, nesterov: number) => () =>
        raw.kernels.sgd(raw.d, p, g, buffer, head, segments, 0.1, momentum, 0, nesterov, 0);
      expect(await refusal(raw, call(0, 0.9, 0))).toMatchObject({ op: "sgd" });
      expect((await refusal(raw, call(b, 0, 1))).message).toContain("nesterov needs a momentum");
      expect((await refusal(raw, call(b, -1, 0))).message).toContain("momentum must not be negative");
    });
  });
});
