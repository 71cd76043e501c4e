import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { type AdamWOptions, adamwStep } from "../reference/adamw.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { adamw32, header, readHeader, type Segment, segmentBytes } from "./optim.js";
import { devices, isas, Raw, refusal, sameBits, withRaw } from "./raw.js";

const options: AdamWOptions = { lr: 0.01, beta1: 0.9, beta2: 0.999, eps: 1e-8, weightDecay: 0.1 };

describe.each(devices)("adamw on %s", (device) => {
  it.each([1, 65, 40000])("equals float64 over ten clipped steps, %i elements", async (n) => {
    await withRaw(device, async (raw) => {
      const param = gaussian(n, 1);
      const zero = new Float32Array(n);
      const t = {
        p: raw.from(param, [n]),
        m: raw.from(zero, [n]),
        v: raw.from(zero, [n]),
        header: header(raw),
        segments: raw.from(segmentBytes([{ begin: 0, end: n, weightDecay: 0.1 }]), [32]),
      };
      const expected = { p: Float64Array.from(param), m: new Float64Array(n), v: new Float64Array(n) };
      for (let step = 1; step <= 10; step++) {
        const grad = gaussian(n, 100 + step, 10 ** (-step % 4));
        const norm = Math.sqrt(grad.reduce((s, g) => s + g * g, 0));
        const g = raw.from(grad, [n]);
        raw.kernels.gradStats(raw.d, t.header, g, raw.from([1], [1]));
        adamw32(raw, [t.p, g, t.m, t.v], [t.header, t.segments], [options.lr, options.beta1, options.beta2, options.eps, 0.5]);
        const clip = Math.min(1, 0.5 / (norm + 1e-6));
        adamwStep(
          expected.p,
          expected.m,
          expected.v,
          grad.map((x) => x * clip),
          step,
          options,
        );
        expect(relativeError([Math.sqrt((await readHeader(raw, t.header)).gradNormSq)], [norm])).toBeLessThan(1e-9);
      }
      expect(relativeError(await raw.f32(t.p), expected.p)).toBeLessThan(1e-6);
      expect(relativeError(await raw.f32(t.m), expected.m)).toBeLessThan(1e-6);
      expect(relativeError(await raw.f32(t.v), expected.v)).toBeLessThan(1e-6);
      expect(await readHeader(raw, t.header)).toMatchObject({ step: 10, skipped: 0, finite: 1, consecutive: 0 });
    });
  });

  it.each([0, 0.5])("keeps a small mean after a large gradient, beta1 %d", async (beta1) => {
    await withRaw(device, async (raw) => {
      const grads = [gaussian(33, 3, 1e4), gaussian(33, 4, 1e-3)] as const;
      const t = {
        p: raw.from(gaussian(33, 1), [33]),
        m: raw.from(new Float32Array(33), [33]),
        v: raw.from(new Float32Array(33), [33]),
        header: header(raw),
        segments: raw.from(segmentBytes([{ begin: 0, end: 33 }]), [32]),
      };
      for (const grad of grads) {
        const g = raw.from(grad, [33]);
        raw.kernels.gradStats(raw.d, t.header, g, 0);
        adamw32(raw, [t.p, g, t.m, t.v], [t.header, t.segments], [0.01, beta1, 0.99, 1e-8, 0]);
      }
      const expected = grads[1].map((g, i) => beta1 * (1 - beta1) * grads[0][i]! + (1 - beta1) * g);
      expect(relativeError(await raw.f32(t.m), expected)).toBeLessThan(1e-6);
    });
  });

  it("gives segments their own rate and decay and leaves the rest alone", async () => {
    await withRaw(device, async (raw) => {
      const n = 1024;
      const [param, grad] = [gaussian(n, 1), gaussian(n, 2)] as const;
      const segments: Segment[] = [
        { begin: 0, end: 100, weightDecay: 0.5 },
        { begin: 512, end: 700, lrScale: 16 },
      ];
      const zero = new Float32Array(n);
      const t = {
        p: raw.from(param, [n]),
        g: raw.from(grad, [n]),
        m: raw.from(zero, [n]),
        v: raw.from(zero, [n]),
        header: header(raw),
        segments: raw.from(segmentBytes(segments), [64]),
      };
      raw.kernels.gradStats(raw.d, t.header, t.g, 0);
      adamw32(raw, [t.p, t.g, t.m, t.v], [t.header, t.segments], [0.001, 0.9, 0.999, 1e-8, 0]);
      const expected = Float64Array.from(param);
      for (const s of segments) {
        const part = expected.subarray(s.begin, s.end);
        const size = s.end - s.begin;
        adamwStep(part, new Float64Array(size), new Float64Array(size), grad.slice(s.begin, s.end), 1, {
          ...options,
          lr: 0.001 * (s.lrScale ?? 1),
          weightDecay: s.weightDecay ?? 0,
        });
      }
      expect(relativeError(await raw.f32(t.p), expected)).toBeLessThan(1e-6);
      expect((await raw.f32(t.m)).slice(100, 512)).toEqual(new Float32Array(412));
    });
  });

  it("gives the same bits on slices of the arena, one after the other", async () => {
    await withRaw(device, async (raw) => {
      const [n, cut] = [1300, 512];
      const [param, grads] = [gaussian(n, 1), [gaussian(n, 2), gaussian(n, 3)]] as const;
      const run = async (slices: readonly (readonly [number, number])[]) => {
        const head = header(raw);
        const parts = slices.map(([begin, end]) => {
          const part = (values: Float32Array) => raw.from(values.slice(begin, end), [end - begin]);
          const segments = [
            { begin: 0, end: 700, weightDecay: 0.5 },
            { begin: 768, end: n, lrScale: 4 },
          ].flatMap((s) => {
            const [from, to] = [Math.max(s.begin, begin) - begin, Math.min(s.end, end) - begin];
            return from < to ? [{ ...s, begin: from, end: to }] : [];
          });
          const zero = new Float32Array(n);
          const table = raw.from(segmentBytes(segments), [32 * segments.length]);
          return { p: part(param), m: part(zero), v: part(zero), grads: grads.map(part), table };
        });
        for (const [step, grad] of grads.entries()) {
          raw.kernels.gradStats(raw.d, head, raw.from(grad, [n]), 0);
          for (const { p, m, v, grads, table } of parts)
            adamw32(raw, [p, grads[step]!, m, v], [head, table], [0.01, 0.9, 0.999, 1e-8, 0.5]);
        }
        const all = async (key: "p" | "m" | "v") => Buffer.concat(await Promise.all(parts.map((part) => raw.bytes(part[key]))));
        return [await all("p"), await all("m"), await all("v"), await raw.bytes(head)];
      };
      const [whole, sliced] = [
        await run([[0, n]]),
        await run([
          [0, cut],
          [cut, n],
        ]),
      ];
      expect(sameBits(sliced, whole)).toBe(true);
    });
  });

  it.each([
    ["NaN in the gradient", [Number.NaN], [1]],
    ["infinity in the gradient", [Number.POSITIVE_INFINITY], [1]],
    ["a loss that is not finite", [1], [Number.NaN]],
  ])("skips a step with %s: only the counters move", async (_, g, loss) => {
    await withRaw(device, async (raw) => {
      const n = 300;
      const grad = gaussian(n, 2);
      grad[299] = g[0] as number;
      const t = {
        p: raw.from(gaussian(n, 1), [n]),
        g: raw.from(grad, [n]),
        m: raw.from(gaussian(n, 3), [n]),
        v: raw.from(gaussian(n, 4), [n]),
        header: header(raw),
        segments: raw.from(segmentBytes([{ begin: 0, end: n }]), [32]),
      };
      const before = await Promise.all([t.p, t.m, t.v].map((h) => raw.bytes(h)));
      for (let i = 0; i < 2; i++) {
        raw.kernels.gradStats(raw.d, t.header, t.g, raw.from(loss, [1]));
        adamw32(raw, [t.p, t.g, t.m, t.v], [t.header, t.segments], [0.01, 0.9, 0.999, 1e-8, 1]);
      }
      expect(sameBits(await Promise.all([t.p, t.m, t.v].map((h) => raw.bytes(h))), before)).toBe(true);
      expect(await readHeader(raw, t.header)).toMatchObject({ step: 0, skipped: 2, finite: 0, consecutive: 2 });
    });
  });
});

describe("adamw", () => {
  it("gives the same bits with 1, 2 and 4 threads", async () => {
    const n = 200_000;
    const results = [];
    for (const raw of [new Raw(`cpu:${isas.at(-1)}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)]) {
      const zero = new Float32Array(n);
      const t = {
        p: raw.from(gaussian(n, 1), [n]),
        g: raw.from(gaussian(n, 2), [n]),
        m: raw.from(zero, [n]),
        v: raw.from(zero, [n]),
        header: header(raw),
        segments: raw.from(segmentBytes([{ begin: 0, end: n }]), [32]),
      };
      raw.kernels.gradStats(raw.d, t.header, t.g, 0);
      adamw32(raw, [t.p, t.g, t.m, t.v], [t.header, t.segments], [0.01, 0.9, 0.999, 1e-8, 1]);
      results.push(await Promise.all([t.p, t.m, t.v, t.header].map((h) => raw.bytes(h))));
      raw.dispose();
    }
    expect(sameBits(results[1]!, results[0])).toBe(true);
    expect(sameBits(results[2]!, results[0])).toBe(true);
  });

  it.each(["cpu", cuda])(
    "refuses 8-bit moments that are not there, and segments that overlap or are not aligned, on %s",
    async (device) => {
      await withRaw(device, async (raw) => {
        const tensors = [0, 1, 2, 3].map(() => raw.from(new Float32Array(512), [512])) as [number, number, number, number];
        const call =
          (...s: Segment[]) =>
          () => {
            const head = [header(raw), raw.from(segmentBytes(s), [32 * s.length])] as const;
            adamw32(raw, tensors, head, [0.01, 0.9, 0.999, 1e-8, 1]);
          };
        const message = async (...s: Segment[]) => (await refusal(raw, call(...s))).message;
        expect(await refusal(raw, call({ begin: 0, end: 512, bits: 8 }))).toMatchObject({ code: "INVALID", op: "adamw" });
        expect(await message({ begin: 0, end: 512, bits: 8 })).toContain("state1 must be given");
        expect(await message({ begin: 100, end: 512 })).toContain("begins at a multiple of 256");
        expect(await message({ begin: 0, end: 512, block: 1 })).toContain(
          "exp_avg has 512 elements but the segments reach to 768",
        );
        expect(await message({ begin: 0, end: 512, block: -1 })).toContain("begin at block -1");
        expect(await message({ begin: 0, end: 256 }, { begin: 256, end: 512, block: 0 })).toContain(
          "which others of that width reach into",
        );
      });
    },
  );
});
