import { describe, expect, it } from "vitest";
import { ParameterArena } from "../../src/optim/arena.js";
import { SGD, type SGDOptions } from "../../src/optim/sgd.js";
import { getDevice } from "../../src/tensor/device.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { sgdStep } from "../reference/sgd.js";
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

function trainable(): ParameterArena {
  const arena = new ParameterArena(SPECS, device);
  arena.setTrainable(true);
  arena.values.upload(gaussian(arena.values.size, 1));
  return arena;
}

describe("SGD", () => {
  it.each([
    [{ weightDecay: 0.1 }],
    [{ momentum: 0.9, dampening: 0.3, weightDecay: 0.1 }],
    [{ momentum: 0.9, nesterov: true, weightDecay: 0.1, maxGradNorm: 0.5 }],
  ])("equals float64 per segment, clipped by the norm of all: %o", (options: SGDOptions) =>
    leavesNothing(async () => {
      const { momentum = 0, dampening = 0, nesterov = false, weightDecay = 0, maxGradNorm = 0 } = options;
      const arena = trainable();
      const optimizer = new SGD(arena, { ...options, groups: GROUPS });
      expect(Object.keys(optimizer.state)).toEqual(momentum === 0 ? ["header"] : ["momentum_buffer", "header"]);
      const values = await arena.values.readFloat32();
      const state = arena.segments.map(({ begin, end }) => ({
        param: Float64Array.from(values.subarray(begin, end)),
        buffer: new Float64Array(end - begin),
      }));
      for (let step = 1; step <= 4; step++) {
        const gradients = SPECS.map(({ name }, i) => {
          const gradient = gaussian(state[i]!.param.length, 10 * step + i);
          arena.get(name).grad!.upload(gradient);
          return gradient;
        });
        const norm = Math.sqrt(gradients.reduce((sum, g) => sum + g.reduce((s, v) => s + v * v, 0), 0));
        const factor = maxGradNorm > 0 ? Math.min(1, maxGradNorm / (norm + 1e-6)) : 1;
        optimizer.step(0.01);
        SPECS.forEach(({ name }, i) => {
          const { lrScale, weightDecay: own } = GROUPS.get(name) ?? { lrScale: 1, weightDecay };
          const { param, buffer } = state[i]!;
          const clipped = Float64Array.from(gradients[i]!, (g) => g * factor);
          sgdStep(param, buffer, clipped, step, { lr: 0.01 * lrScale, momentum, dampening, nesterov, weightDecay: own });
        });
        expect(await optimizer.report()).toMatchObject({ step, skipped: 0, finite: true, consecutive: 0 });
      }
      for (const [i, { name }] of SPECS.entries())
        expect(relativeError(await arena.get(name).readFloat32(), state[i]!.param)).toBeLessThan(2e-6);
      optimizer.dispose();
      arena.dispose();
    }),
  );

  it("goes on from a restored state with the same bits: the next step is not a first one", () =>
    leavesNothing(async () => {
      const make = () => {
        const arena = trainable();
        return { arena, optimizer: new SGD(arena, { momentum: 0.9, dampening: 0.5 }) };
      };
      const step = ({ arena, optimizer }: ReturnType<typeof make>, seed: number) => {
        arena.gradients!.upload(gaussian(arena.values.size, seed));
        optimizer.step(0.01);
      };
      const one = make();
      step(one, 1);
      const other = make();
      other.arena.values.upload(await one.arena.values.read());
      for (const [name, tensor] of Object.entries(one.optimizer.state)) other.optimizer.state[name]!.upload(await tensor.read());
      for (const run of [one, other]) step(run, 2);
      expect(await other.arena.values.read()).toEqual(await one.arena.values.read());
      for (const { arena, optimizer } of [one, other]) {
        optimizer.dispose();
        arena.dispose();
      }
    }));

  it("refuses a frozen arena, and nesterov without momentum or with dampening", () =>
    leavesNothing(() => {
      const arena = new ParameterArena(SPECS, device);
      const optimizer = new SGD(arena);
      expect(codeOf(() => optimizer.step(0.1))).toBe("INVALID_ARGUMENT");
      expect(codeOf(() => new SGD(arena, { nesterov: true }))).toBe("INVALID_ARGUMENT");
      expect(codeOf(() => new SGD(arena, { momentum: 0.9, dampening: 0.1, nesterov: true }))).toBe("INVALID_ARGUMENT");
      expect(codeOf(() => new SGD(arena, { momentum: -1 }))).toBe("INVALID_ARGUMENT");
      optimizer.dispose();
      arena.dispose();
    }));
});
