import { describe, expect, it } from "vitest";
import { NATIVE_ACTIVATIONS } from "../../src/native/surface.js";
import { cuda } from "../cuda-device.js";
import { glu, rmsNorm, rope, softcap } from "../reference/layers.js";
import { gaussian, gradientError, relativeError, weighted } from "../reference/numeric.js";
import { devices, isas, Raw, refusal, sameBits, withRaw } from "./raw.js";

const shapes = [
  [1, 1],
  [3, 65],
  [5, 64],
  [7, 127],
  [70, 33],
] as const;

describe.each(devices)("layers on %s", (device) => {
  describe.each(shapes)("rms_norm of %i rows of %i", (rows, d) => {
    it.each([false, true])("and its gradients equal float64, unit offset %s", async (unitOffset) => {
      await withRaw(device, async (raw) => {
        const n = rows * d;
        const [x, residual, weight, dy, past] = [
          gaussian(n, 1),
          gaussian(n, 2),
          gaussian(d, 3),
          gaussian(n, 4),
          gaussian(n, 5),
        ] as const;
        const shape = [rows, d];
        const t = { x: raw.from(x, shape), w: raw.from(weight, [d]), y: raw.out(shape), rstd: raw.out([rows]) };
        const [dx, dweight] = [raw.out(shape), raw.from(gaussian(d, 6), [d])];
        const offset = unitOffset ? 1 : 0;
        raw.kernels.rmsNorm(raw.d, t.y, t.rstd, t.x, raw.from(residual, shape), t.w, 1e-6, offset);
        raw.kernels.rmsNormGrad(raw.d, dx, dweight, raw.from(dy, shape), raw.from(past, shape), t.x, t.rstd, t.w, 1e-6, offset);
        const normed = rmsNorm(x, weight, 1e-6, unitOffset);
        const y = normed.y.map((v, i) => v + (residual[i] as number));
        expect(relativeError(await raw.f32(t.y), y)).toBeLessThan(2e-6);
        expect(relativeError(await raw.f32(t.rstd), normed.rstd)).toBeLessThan(2e-6);
        const loss = (s: ArrayLike<number>, w: ArrayLike<number>) => weighted(rmsNorm(s, w, 1e-6, unitOffset).y, dy);
        expect(gradientError((s) => loss(s, weight) + weighted(s, past), x, await raw.f32(dx), 7)).toBeLessThan(2e-5);
        const added = (await raw.f32(dweight)).map((value, i) => value - (gaussian(d, 6)[i] as number));
        expect(gradientError((w) => loss(x, w), weight, added, 8)).toBeLessThan(2e-5);
      });
    });

    it("without a residual; onto the gradient that is there, or none; without dweight", async () => {
      await withRaw(device, async (raw) => {
        const [x, weight, dy, before] = [
          gaussian(rows * d, 1),
          gaussian(d, 3),
          gaussian(rows * d, 4),
          gaussian(rows * d, 5),
        ] as const;
        const t = {
          x: raw.from(x, [rows, d]),
          w: raw.from(weight, [d]),
          y: raw.out([rows, d]),
          rstd: raw.out([rows]),
          dy: raw.from(dy, [rows, d]),
          dx: raw.from(before, [rows, d]),
          alone: raw.out([rows, d]),
        };
        raw.kernels.rmsNorm(raw.d, t.y, t.rstd, t.x, 0, t.w, 1e-5, 0);
        raw.kernels.rmsNormGrad(raw.d, t.dx, 0, t.dy, t.dx, t.x, t.rstd, t.w, 1e-5, 0);
        raw.kernels.rmsNormGrad(raw.d, t.alone, 0, t.dy, 0, t.x, t.rstd, t.w, 1e-5, 0);
        expect(relativeError(await raw.f32(t.y), rmsNorm(x, weight, 1e-5, false).y)).toBeLessThan(2e-6);
        const loss = (s: Float64Array) => weighted(rmsNorm(s, weight, 1e-5, false).y, dy);
        expect(gradientError((s) => loss(s) + weighted(s, before), x, await raw.f32(t.dx), 7)).toBeLessThan(2e-5);
        expect(gradientError(loss, x, await raw.f32(t.alone), 7)).toBeLessThan(2e-5);
      });
    });
  });

  it.each([
    [3, 2, 8, 4],
    [5, 3, 66, 33],
    [4, 1, 32, 8],
    [2, 2, 5, 1],
  ])("rope of %i tokens, %i heads of %i, %i pairs", async (tokens, heads, d, h) => {
    await withRaw(device, async (raw) => {
      const x = gaussian(tokens * heads * d, 1);
      const positions = Int32Array.from({ length: tokens }, (_, i) => i * 1237);
      const invFreq = Float32Array.from({ length: h }, (_, i) => 10000 ** (-i / h));
      const shape = [tokens, heads, d];
      const t = { table: raw.out([tokens, 2 * h]), x: raw.from(x, shape), y: raw.out(shape) };
      raw.kernels.ropeTable(raw.d, t.table, raw.from(positions, [tokens]), raw.from(invFreq, [h]), 1.25);
      raw.kernels.rope(raw.d, t.y, t.x, t.table, 0);
      const expected = rope(x, positions, invFreq, heads, d, 1.25);
      expect(relativeError(await raw.f32(t.y), expected)).toBeLessThan(1e-6);
      // The inverse is the transpose: <rope(x), g> = <x, inverse(g)>; in place as well.
      const g = gaussian(x.length, 2);
      const back = raw.from(g, shape);
      raw.kernels.rope(raw.d, back, back, t.table, 1);
      expect(weighted(await raw.f32(back), x)).toBeCloseTo(weighted(expected, g), 3);
    });
  });

  describe.each(NATIVE_ACTIVATIONS)("glu with %s", (activation) => {
    it.each([1, 3, 65, 127, 20000])("and its gradients, %i elements", async (n) => {
      await withRaw(device, async (raw) => {
        const gate = gaussian(n, 1, 3);
        if (n > 3) gate.set([100, -100, 0], 0);
        const [up, dy] = [gaussian(n, 2), gaussian(n, 3)] as const;
        const t = {
          y: raw.out([n]),
          dgate: raw.out([n]),
          dup: raw.out([n]),
          gate: raw.from(gate, [n]),
          up: raw.from(up, [n]),
          dy: raw.from(dy, [n]),
        };
        const code = NATIVE_ACTIVATIONS.indexOf(activation);
        raw.kernels.glu(raw.d, t.y, t.gate, t.up, code);
        raw.kernels.gluGrad(raw.d, t.dgate, t.dup, t.dy, t.gate, t.up, code);
        expect(relativeError(await raw.f32(t.y), glu(gate, up, activation))).toBeLessThan(1e-6);
        if (n > 1000) return;
        expect(gradientError((g) => weighted(glu(g, up, activation), dy), gate, await raw.f32(t.dgate), 4)).toBeLessThan(1e-5);
        expect(gradientError((u) => weighted(glu(gate, u, activation), dy), up, await raw.f32(t.dup), 5)).toBeLessThan(1e-5);
      });
    });
  });

  it.each([1, 3, 65, 127, 20000])("softcap and its gradient, %i elements", async (n) => {
    await withRaw(device, async (raw) => {
      const [x, dy] = [gaussian(n, 1, 20), gaussian(n, 2)];
      if (n > 3) x.set([1e4, -1e4, 0], 0);
      const t = { y: raw.out([n]), dx: raw.out([n]), x: raw.from(x, [n]) };
      raw.kernels.softcap(raw.d, t.y, t.x, 0.25, 5);
      raw.kernels.softcapGrad(raw.d, t.dx, raw.from(dy, [n]), t.y, 0.25, 5);
      expect(relativeError(await raw.f32(t.y), softcap(x, 0.25, 5))).toBeLessThan(1e-6);
      if (n > 1000) return;
      expect(gradientError((x) => weighted(softcap(x, 0.25, 5), dy), x, await raw.f32(t.dx), 3)).toBeLessThan(1e-5);
    });
  });

  it.each([
    [1, 1, 1, 0, 0, 1],
    [3, 65, 130, 0, 65, 65],
    [300, 127, 64, 3, 1, 63],
    [5, 4, 4, 1, 1, 0],
  ])("copy_columns of %i rows", async (rows, wideY, wideX, yBegin, xBegin, columns) => {
    await withRaw(device, async (raw) => {
      const [before, x] = [gaussian(rows * wideY, 1), gaussian(rows * wideX, 2)];
      const y = raw.from(before, [rows, wideY]);
      raw.kernels.copyColumns(raw.d, y, raw.from(x, [rows, wideX]), yBegin, xBegin, columns);
      const expected = before.map((value, i) => {
        const [row, column] = [Math.floor(i / wideY), (i % wideY) - yBegin];
        return column >= 0 && column < columns ? (x[row * wideX + xBegin + column] as number) : value;
      });
      expect(sameBits(await raw.f32(y), expected)).toBe(true);
    });
  });

  it("copy_columns refuses columns that are not there", async () => {
    await withRaw(device, async (raw) => {
      const [y, x] = [raw.out([2, 3]), raw.out([2, 5])];
      for (const [yBegin, xBegin, columns] of [
        [1, 0, 3],
        [0, 3, 3],
        [-1, 0, 1],
        [0, 0, -1],
      ] as const) {
        const call = () => raw.kernels.copyColumns(raw.d, y, x, yBegin, xBegin, columns);
        expect((await refusal(raw, call)).message).toContain("[copy_columns] columns");
      }
    });
  });
});

describe.each(isas.map((isa) => `cpu:${isa}`))("layers on %s", (device) => {
  // Longer results than 16 MiB are stored past the caches where a vector of them is aligned.
  it.each([
    ["aligned rows", 64, 1024],
    ["rows that begin anywhere", 72, 1016],
  ])("give long results the bits of short ones, %s", async (_, guard, d) => {
    const rows = 16;
    const run = (repeats: number) =>
      withRaw(
        device,
        async (raw) => {
          const [flat, heads] = [
            [repeats * rows, d],
            [repeats * rows, 1, d],
          ] as const;
          const tiled = (seed: number, shape: readonly number[] = flat) => {
            const [once, all] = [gaussian(rows * d, seed), new Float32Array(repeats * rows * d)];
            for (let i = 0; i < repeats; i++) all.set(once, i * once.length);
            return raw.from(all, shape);
          };
          const [x, dy, w, rstd] = [tiled(1), tiled(2), raw.from(gaussian(d, 3), [d]), raw.out([repeats * rows])];
          const positions = Int32Array.from({ length: repeats * rows }, (_, i) => i % rows);
          const table = raw.out(flat);
          raw.kernels.ropeTable(raw.d, table, raw.from(positions, [positions.length]), raw.from(gaussian(d / 2, 4), [d / 2]), 1);
          const t = {
            normed: raw.out(flat),
            dx: raw.out(flat),
            gated: raw.out(flat),
            dgate: raw.out(flat),
            dup: raw.out(flat),
            turned: raw.out(heads),
          };
          raw.kernels.rmsNorm(raw.d, t.normed, rstd, x, 0, w, 1e-6, 0);
          raw.kernels.rmsNormGrad(raw.d, t.dx, 0, dy, 0, x, rstd, w, 1e-6, 0);
          raw.kernels.glu(raw.d, t.gated, x, dy, 0);
          raw.kernels.gluGrad(raw.d, t.dgate, t.dup, x, dy, x, 0);
          raw.kernels.rope(raw.d, t.turned, tiled(1, heads), table, 0);
          return Promise.all(Object.values(t).map((y) => raw.f32(y)));
        },
        guard,
      );
    const [short, long] = [await run(1), await run(260)];
    expect(260 * rows * d * 4).toBeGreaterThan(1 << 24);
    for (const [i, all] of long.entries())
      for (let at = 0; at < all.length; at += rows * d) expect(sameBits(all.subarray(at, at + rows * d), short[i])).toBe(true);
  });
});

describe("layers", () => {
  it("give the same bits with 1, 2 and 4 threads", async () => {
    const devices = [new Raw(`cpu:${isas.at(-1)}`, 1), new Raw("cpu", 2), new Raw("cpu:", 4)];
    const [rows, d] = [300, 129];
    const results = await Promise.all(
      devices.map(async (raw) => {
        const [x, dy] = [raw.from(gaussian(rows * d, 1), [rows, d]), raw.from(gaussian(rows * d, 2), [rows, d])];
        const t = {
          w: raw.from(gaussian(d, 3), [d]),
          y: raw.out([rows, d]),
          rstd: raw.out([rows]),
          dx: raw.out([rows, d]),
          dw: raw.from(new Float32Array(d), [d]),
        };
        raw.kernels.rmsNorm(raw.d, t.y, t.rstd, x, 0, t.w, 1e-6, 0);
        raw.kernels.rmsNormGrad(raw.d, t.dx, t.dw, dy, 0, x, t.rstd, t.w, 1e-6, 0);
        const result = await Promise.all([t.y, t.dx, t.dw].map((h) => raw.f32(h)));
        raw.dispose();
        return result;
      }),
    );
    expect(sameBits(results[1]!, results[0])).toBe(true);
    expect(sameBits(results[2]!, results[0])).toBe(true);
  });

  it.each(["cpu", cuda])("refuse shapes that do not fit, on %s", async (device) => {
    await withRaw(device, async (raw) => {
      const [x, w] = [raw.out([2, 64]), raw.out([32])];
      const error = await refusal(raw, () => raw.kernels.rmsNorm(raw.d, raw.out([2, 64]), 0, x, 0, w, 1e-6, 0));
      expect(error).toMatchObject({ code: "INVALID", op: "rms_norm" });
      expect(error.message).toContain("weight must have 64 elements but has 32");
    });
  });
});
