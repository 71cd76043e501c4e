import { describe, expect, it } from "vitest";
import { Adafactor } from "../../src/optim/adafactor.js";
import { Adam, AdamW } from "../../src/optim/adamw.js";
import { ParameterArena } from "../../src/optim/arena.js";
import { Lion } from "../../src/optim/lion.js";
import type { Optimizer } from "../../src/optim/optimizer.js";
import { SGD } from "../../src/optim/sgd.js";
import { getDevice } from "../../src/tensor/device.js";
import { adamwStep } from "../reference/adamw.js";
import { lionStep } from "../reference/lion.js";
import { gaussian, relativeError } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";

const device = getDevice();
const SPECS = [
  { name: "small", shape: [3, 65] },
  { name: "large", shape: [70, 60] },
  { name: "vector", shape: [4095] },
  { name: "exempt", shape: [64, 64] },
];

function trainable(dtype: "float32" | "bfloat16" = "float32"): ParameterArena {
  const arena = new ParameterArena(SPECS, device, { dtype });
  arena.setTrainable(true);
  if (dtype === "float32") arena.values.upload(gaussian(arena.values.size, 1));
  return arena;
}

const OPTIMIZERS: [string, (arena: ParameterArena) => Optimizer][] = [
  ["Adam", (arena) => new Adam(arena, { weightDecay: 0.1 })],
  ["AdamW in 8 bits", (arena) => new AdamW(arena, { bits: 8, keep32bit: new Set(["exempt"]) })],
  ["Lion", (arena) => new Lion(arena)],
  ["Lion in 8 bits", (arena) => new Lion(arena, { bits: 8 })],
  ["Adafactor", (arena) => new Adafactor(arena)],
  ["Adafactor with a first moment", (arena) => new Adafactor(arena, { beta1: 0.9, relativeStep: true, scaleParameter: true })],
];

describe.each(OPTIMIZERS)("%s", (_, make) => {
  it("goes on from a restored state with the same bits", () =>
    leavesNothing(async () => {
      const runs = [0, 1].map(() => {
        const arena = trainable();
        return { arena, optimizer: make(arena) };
      });
      const step = ({ arena, optimizer }: (typeof runs)[0], seed: number) => {
        arena.gradients!.upload(gaussian(arena.values.size, seed));
        optimizer.step(0.01);
      };
      const [one, other] = runs as [(typeof runs)[0], (typeof runs)[0]];
      for (const seed of [1, 2]) step(one, seed);
      other.arena.values.upload(await one.arena.values.read());
      for (const [name, tensor] of Object.entries(one.optimizer.state)) other.optimizer.state[name]!.upload(await tensor.read());
      for (const run of runs) step(run, 3);
      expect(await other.arena.values.read()).toEqual(await one.arena.values.read());
      for (const [name, tensor] of Object.entries(one.optimizer.state))
        expect(await other.optimizer.state[name]!.read()).toEqual(await tensor.read());
      for (const { arena, optimizer } of runs) {
        optimizer.dispose();
        arena.dispose();
      }
    }));
});

describe("widths of moments", () => {
  it("8 bits from 4096 elements on, but for parameters that are exempt; what nothing lies in is not there", () =>
    leavesNothing(async () => {
      const arena = trainable();
      const sizes = (optimizer: Optimizer) => {
        const found = Object.fromEntries(Object.entries(optimizer.state).map(([name, { size, dtype }]) => [name, [size, dtype]]));
        optimizer.dispose();
        return found;
      };
      const header = [64, "uint8"];
      const wide = [256 + 4096 + 4096, "float32"];
      expect(sizes(new AdamW(arena, { bits: 8, keep32bit: new Set(["exempt"]) }))).toEqual({
        exp_avg: wide,
        exp_avg_sq: wide,
        state1: [4352, "uint8"],
        state2: [4352, "uint8"],
        absmax1: [17, "float32"],
        absmax2: [17, "float32"],
        header,
      });
      expect(sizes(new Lion(arena, { bits: 8, min8bitSize: 1 }))).toEqual({
        state1: [256 + 4352 + 4096 + 4096, "uint8"],
        absmax1: [1 + 17 + 16 + 16, "float32"],
        header,
      });
      expect(sizes(new Lion(arena))).toEqual({ exp_avg: [12800, "float32"], header });
      expect(sizes(new Adafactor(arena))).toEqual({
        exp_avg_sq: [4095, "float32"],
        exp_avg_sq_row: [3 + 70 + 64, "float32"],
        exp_avg_sq_col: [65 + 60 + 64, "float32"],
        header,
      });
      arena.dispose();
    }));

  it("parameters of 32 and of 8 bits stay near what 32 bits give, each its own", () =>
    leavesNothing(async () => {
      for (const kind of ["adam", "lion"] as const) {
        const arena = trainable();
        const optimizer =
          kind === "adam" ? new Adam(arena, { bits: 8, weightDecay: 0.1 }) : new Lion(arena, { bits: 8, weightDecay: 0.1 });
        const expected = arena.segments.map(({ begin, end }) => {
          const [m, v] = [new Float64Array(end - begin), new Float64Array(end - begin)];
          return { param: Float64Array.from(gaussian(arena.values.size, 1).subarray(begin, end)), m, v };
        });
        for (let step = 1; step <= 4; step++) {
          const gradient = gaussian(arena.values.size, 10 + step);
          arena.gradients!.upload(gradient);
          optimizer.step(1e-3);
          for (const [i, { begin, end }] of arena.segments.entries()) {
            const { param, m, v } = expected[i]!;
            const g = gradient.subarray(begin, end);
            const common = { lr: 1e-3, beta1: 0.9, weightDecay: 0.1 };
            if (kind === "adam") adamwStep(param, m, v, g, step, { ...common, beta2: 0.999, eps: 1e-8, decoupled: false });
            else lionStep(param, m, g, { ...common, beta2: 0.99 });
          }
        }
        for (const [i, { name }] of arena.segments.entries()) {
          const small = SPECS[i]!.shape.reduce((a, b) => a * b) < 4096;
          expect(relativeError(await arena.get(name).readFloat32(), expected[i]!.param)).toBeLessThan(small ? 2e-6 : 2e-3);
        }
        optimizer.dispose();
        arena.dispose();
      }
    }));
});

describe("what optimizers refuse", () => {
  it("a frozen arena; Adafactor and SGD: bfloat16 parameters; Adafactor: warm-up without relative step", () =>
    leavesNothing(() => {
      const arena = trainable();
      const half = trainable("bfloat16");
      for (const [, make] of OPTIMIZERS) {
        arena.setTrainable(false);
        const optimizer = make(arena);
        expect(codeOf(() => optimizer.step(0.1))).toBe("INVALID_ARGUMENT");
        optimizer.dispose();
      }
      for (const Kind of [Adafactor, SGD]) expect(codeOf(() => new Kind(half))).toBe("INVALID_ARGUMENT");
      expect(codeOf(() => new Adafactor(arena, { warmupInit: true }))).toBe("INVALID_ARGUMENT");
      half.dispose();
      arena.dispose();
    }));
});
