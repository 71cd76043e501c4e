import { describe, expect, it } from "vitest";
import { AdamW } from "../../src/optim/adamw.js";
import { ParameterArena } from "../../src/optim/arena.js";
import { getDevice } from "../../src/tensor/device.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { adamwStep } from "../reference/adamw.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";

const device = getDevice();
const SPECS = [
  { name: "a", shape: [3, 65] },
  { name: "b", shape: [1] },
  { name: "c", shape: [127] },
];
/** Each parameter's own; "a" has none. */
const GROUPS = new Map([
  ["b", { lrScale: 1, weightDecay: 0 }],
  ["c", { lrScale: 16, weightDecay: 0.1 }],
]);

describe("ParameterArena", () => {
  it("lays parameters out at multiples of 256, as slices of one buffer", () =>
    leavesNothing(async () => {
      const arena = new ParameterArena(SPECS, device);
      expect(arena.segments.map(({ begin, end }) => [begin, end])).toEqual([
        [0, 195],
        [256, 257],
        [512, 639],
      ]);
      expect(arena.size).toBe(195 + 1 + 127);
      arena.get("b").upload(Float32Array.of(7));
      expect((await arena.values.readFloat32())[256]).toBe(7);
      expect(codeOf(() => arena.get("d"))).toBe("NOT_FOUND");
      expect(codeOf(() => new ParameterArena([SPECS[0]!, SPECS[0]!], device))).toBe("INVALID_ARGUMENT");
      arena.dispose();
    }));

  it("has gradients only while trainable", () =>
    leavesNothing(async () => {
      const arena = new ParameterArena(SPECS, device);
      expect(arena.get("a").requiresGrad).toBe(false);
      arena.setTrainable(true);
      arena.get("c").grad!.upload(new Float32Array(127).fill(1));
      expect((await arena.gradients!.readFloat32()).reduce((s, v) => s + v, 0)).toBe(127);
      arena.zeroGrad();
      expect((await arena.gradients!.readFloat32()).every((v) => v === 0)).toBe(true);
      arena.setTrainable(false);
      expect(arena.get("a").grad).toBeUndefined();
      arena.dispose();
    }));
});

describe("AdamW", () => {
  const OPTIONS = { betas: [0.9, 0.99], eps: 1e-6, weightDecay: 0.1, maxGradNorm: 0.5 } as const;

  it("equals float64 per segment, with its own rate and decay, clipped by the norm of all", () =>
    leavesNothing(async () => {
      const arena = new ParameterArena(SPECS, device);
      arena.setTrainable(true);
      const optimizer = new AdamW(arena, { ...OPTIONS, groups: GROUPS });
      const state = SPECS.map(({ name, shape }, i) => {
        const count = shape.reduce((a, b) => a * b, 1);
        const param = gaussian(count, i + 1);
        arena.get(name).upload(param);
        return { param: Float64Array.from(param), m: new Float64Array(count), v: new Float64Array(count) };
      });
      for (let step = 1; step <= 4; step++) {
        const gradients = SPECS.map(({ name }, i) => {
          const gradient = gaussian(state[i]!.param.length, 10 * step + i);
          arena.get(name).grad!.upload(gradient);
          return gradient;
        });
        const norm = Math.sqrt(gradients.reduce((sum, g) => sum + g.reduce((s, v) => s + v * v, 0), 0));
        optimizer.step(0.01);
        const factor = Math.min(1, OPTIONS.maxGradNorm / (norm + 1e-6));
        SPECS.forEach(({ name }, i) => {
          const { lrScale, weightDecay } = GROUPS.get(name) ?? { lrScale: 1, weightDecay: OPTIONS.weightDecay };
          const { param, m, v } = state[i]!;
          const clipped = gradients[i]!.map((g) => g * factor);
          adamwStep(param, m, v, clipped, step, { lr: 0.01 * lrScale, beta1: 0.9, beta2: 0.99, eps: OPTIONS.eps, weightDecay });
        });
        expect(await optimizer.report()).toMatchObject({ step, skipped: 0, finite: true, consecutive: 0 });
        expect(relativeError([(await optimizer.report()).gradNorm], [norm])).toBeLessThan(1e-6);
      }
      for (const [i, { name }] of SPECS.entries())
        expect(relativeError(await arena.get(name).readFloat32(), state[i]!.param)).toBeLessThan(2e-6);
      optimizer.dispose();
      arena.dispose();
    }));

  it("leaves every byte as it was when gradient or loss is not finite, and counts", () =>
    leavesNothing(async () => {
      const arena = new ParameterArena(SPECS, device);
      arena.setTrainable(true);
      arena.values.upload(gaussian(arena.values.size, 1));
      const optimizer = new AdamW(arena, { ...OPTIONS, groups: GROUPS });
      optimizer.step(0.1);
      const bytes = async () => [
        await arena.values.read(),
        await optimizer.state.exp_avg!.read(),
        await optimizer.state.exp_avg_sq!.read(),
      ];
      const before = await bytes();
      arena.get("b").grad!.upload(Float32Array.of(Number.NaN));
      optimizer.step(0.1);
      arena.zeroGrad();
      using loss = Tensor.from([Number.POSITIVE_INFINITY], [1]);
      optimizer.step(0.1, loss);
      expect(await optimizer.report()).toMatchObject({ step: 1, skipped: 2, consecutive: 2, finite: false });
      expect(await bytes()).toEqual(before);
      optimizer.step(0.1);
      expect(await optimizer.report()).toMatchObject({ step: 2, skipped: 2, consecutive: 0, finite: true });
      optimizer.dispose();
      arena.dispose();
    }));

  it("goes on from a restored state with the same bits", () =>
    leavesNothing(async () => {
      const make = () => {
        const arena = new ParameterArena(SPECS, device);
        arena.setTrainable(true);
        return { arena, optimizer: new AdamW(arena, { ...OPTIONS, groups: GROUPS }) };
      };
      const step = ({ arena, optimizer }: ReturnType<typeof make>, seed: number) => {
        arena.gradients!.upload(gaussian(arena.values.size, seed));
        optimizer.step(0.01);
      };
      const one = make();
      step(one, 1);
      const other = make();
      other.arena.values.upload(await one.arena.values.read());
      for (const name of ["exp_avg", "exp_avg_sq", "header"] as const)
        other.optimizer.state[name]!.upload(await one.optimizer.state[name]!.read());
      for (const run of [one, other]) step(run, 2);
      expect(await other.arena.values.read()).toEqual(await one.arena.values.read());
      for (const { arena, optimizer } of [one, other]) {
        optimizer.dispose();
        arena.dispose();
      }
    }));

  it("refuses to step a frozen arena", () =>
    leavesNothing(() => {
      const arena = new ParameterArena(SPECS, device);
      const optimizer = new AdamW(arena);
      expect(codeOf(() => optimizer.step(0.1))).toBe("INVALID_ARGUMENT");
      optimizer.dispose();
      arena.dispose();
    }));
});
