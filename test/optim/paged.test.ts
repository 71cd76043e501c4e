/** State in the host's memory, copied beside the passes: the bits of state that stays, less memory on the device. */
import { afterEach, describe, expect, it } from "vitest";
import type { PackedTokens } from "../../src/data/collate.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { multiply } from "../../src/ops/multiply.js";
import { reshape } from "../../src/ops/reshape.js";
import { AdamW } from "../../src/optim/adamw.js";
import { ParameterArena } from "../../src/optim/arena.js";
import { Lion } from "../../src/optim/lion.js";
import { getDevice } from "../../src/tensor/device.js";
import type { Tensor } from "../../src/tensor/tensor.js";
import { TrainStep } from "../../src/train/step.js";
import { cuda } from "../cuda-device.js";
import { gaussian } from "../reference/numeric.js";

const gpu = getDevice(cuda);
/** Of a test on a busy machine. */
const TIME = 120_000;
const GROUPS = new Map([
  ["b", { lrScale: 1, weightDecay: 0 }],
  ["c", { lrScale: 16, weightDecay: 0.1 }],
]);
const OPTIONS = { betas: [0.9, 0.99], eps: 1e-6, weightDecay: 0.1, maxGradNorm: 0.5, groups: GROUPS } as const;
/** Parameters that no page holds whole, and some that share one. */
const SPECS = [
  { name: "a", shape: [70, 65] },
  { name: "b", shape: [1] },
  { name: "c", shape: [2000] },
  { name: "d", shape: [300] },
];

const memory = async (device = gpu) => {
  await device.synchronize();
  const { live, host, tensors } = device.memory;
  return { live, host, tensors };
};

function make(device = gpu, paged = true, specs: readonly { name: string; shape: number[] }[] = SPECS) {
  const arena = new ParameterArena(specs, device);
  arena.setTrainable(true);
  arena.values.upload(gaussian(arena.values.size, 1));
  return { arena, optimizer: new AdamW(arena, { ...OPTIONS, paged }) };
}
type Made = ReturnType<typeof make>;

function step({ arena, optimizer }: Made, seed: number, spoiled = false): void {
  const gradient = gaussian(arena.values.size, seed);
  if (spoiled) gradient[arena.values.size - 1] = Number.NaN;
  arena.gradients!.upload(gradient);
  optimizer.step(0.01);
}

async function bytes({ arena, optimizer }: Made): Promise<string[]> {
  const read = Object.entries({ values: arena.values, ...optimizer.state }).map(async ([name, tensor]) => {
    const { buffer, byteOffset, byteLength } = await tensor.read();
    return `${name} ${Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength).toString("base64")}`;
  });
  return Promise.all(read);
}

function free({ arena, optimizer }: Made): void {
  optimizer.dispose();
  arena.dispose();
}

afterEach(() => gpu.addon.failAllocation(0));

describe("paged AdamW", () => {
  it.each([1, 256, 257, 2048, 2049, 20_000])("has the bits of AdamW after steps and skipped steps, %i elements", async (n) => {
    const [paged, resident] = [true, false].map((paged) => make(gpu, paged, [{ name: "p", shape: [n] }])) as [Made, Made];
    for (const [seed, spoiled] of [[1], [2], [3, true], [4]] as const)
      for (const run of [paged, resident]) step(run, seed, spoiled);
    expect(await bytes(paged)).toEqual(await bytes(resident));
    for (const run of [paged, resident]) free(run);
  });

  it("keeps rates and decays of segments that pages cut", async () => {
    const [paged, resident] = [make(), make(gpu, false)];
    for (const seed of [1, 2, 3]) for (const run of [paged, resident]) step(run, seed);
    expect(await bytes(paged)).toEqual(await bytes(resident));
    for (const run of [paged, resident]) free(run);
  });

  it.each([
    ["all in 8 bits", 1],
    ["some in 8 bits", 1000],
  ])("has the bits of 8-bit AdamW and of Lion, moments %s", async (_, min8bitSize) => {
    for (const Optimizer of [AdamW, Lion]) {
      const [paged, resident] = [true, false].map((paged) => {
        const { arena, optimizer } = make(gpu, false);
        optimizer.dispose();
        return { arena, optimizer: new Optimizer(arena, { bits: 8, min8bitSize, weightDecay: 0.1, paged }) } as Made;
      }) as [Made, Made];
      expect(paged.optimizer.paging).toBeDefined();
      for (const seed of [1, 2, 3]) for (const run of [paged, resident]) step(run, seed);
      expect(await bytes(paged)).toEqual(await bytes(resident));
      for (const run of [paged, resident]) free(run);
    }
  });

  it("leaves the moments to the host, a quarter of them to the device during a step, and nothing behind", async () => {
    const before = await memory();
    const run = make(gpu, true, [{ name: "p", shape: [1 << 16] }]);
    const moments = 2 * 4 * 65536;
    const idle = await memory();
    expect(idle.host - before.host).toBe(moments);
    // Values, gradients, header; the tables of segments.
    expect(idle.live - before.live).toBeLessThan(2 * 4 * 65536 + 1024);
    gpu.resetPeak();
    for (const seed of [1, 2, 3]) {
      step(run, seed);
      await gpu.synchronize();
    }
    expect(gpu.memory.peak - idle.live).toBeLessThan(moments / 4 + 2 * 65536 * 4 + 1024);
    free(run);
    expect(await memory()).toEqual(before);
  });

  it("goes on from a saved state with the same bits, though copies were still on their way when it was read", async () => {
    const [one, other] = [make(), make()];
    step(one, 1);
    const state = Object.entries(one.optimizer.state).map(async ([name, tensor]) => [name, await tensor.read()] as const);
    other.arena.values.upload(await one.arena.values.read());
    // In what it overwrites, copies may be on their way too.
    step(other, 9);
    other.arena.values.upload(await one.arena.values.read());
    for (const [name, value] of await Promise.all(state)) other.optimizer.state[name]!.upload(value);
    for (const run of [one, other]) step(run, 2);
    expect(await bytes(other)).toEqual(await bytes(one));
    for (const run of [one, other]) free(run);
  });

  it("has the memory of a step before the step changes anything", async () => {
    const run = make();
    step(run, 1);
    const [before, start] = [await bytes(run), await memory()];
    for (let n = 1; ; n++) {
      run.arena.gradients!.upload(gaussian(run.arena.values.size, 2));
      gpu.addon.failAllocation(n);
      try {
        run.optimizer.step(0.01);
        break;
      } catch (error) {
        gpu.addon.failAllocation(0);
        expect(error).toMatchObject({ code: "OUT_OF_MEMORY" });
        run.optimizer.paging!.abandon();
        expect(await bytes(run)).toEqual(before);
        expect((await memory()).live).toBeLessThanOrEqual(start.live);
        expect(n).toBeLessThan(10);
      }
    }
    free(run);
  });

  it("is refused in whole where its own memory is not to be had", async () => {
    const arena = new ParameterArena(SPECS, gpu);
    const before = await memory();
    let failed = 0;
    for (let n = 1; ; n++) {
      gpu.addon.failAllocation(n);
      try {
        new AdamW(arena, { paged: true }).dispose();
        break;
      } catch (error) {
        expect(error).toMatchObject({ code: "OUT_OF_MEMORY" });
        gpu.addon.failAllocation(0);
        expect(await memory()).toEqual(before);
        failed = n;
      }
    }
    expect(failed).toBeGreaterThan(5);
    arena.dispose();
    // Every slot is free again.
    const slots = Array.from({ length: 32 }, () => gpu.takeSlot());
    expect(() => gpu.takeSlot()).toThrow(`slots of ${cuda} are in use`);
    for (const slot of slots) gpu.giveSlot(slot);
  });

  it("is AdamW itself on the CPU, which has no memory of its own", async () => {
    const cpu = getDevice("cpu");
    const before = await memory(cpu);
    const [paged, resident] = [make(cpu), make(cpu, false)];
    expect(paged.optimizer.paging).toBeUndefined();
    expect((await memory(cpu)).host).toBe(before.host);
    for (const run of [paged, resident]) step(run, 1);
    expect(await bytes(paged)).toEqual(await bytes(resident));
    for (const run of [paged, resident]) free(run);
  });
});

describe("a training step with paged state", () => {
  /** Each layer multiplies by a parameter and keeps 64 KiB for the backward pass, which is one page of the moments. */
  const [ROWS, COLUMNS, LAYERS] = [64, 256, 24];
  const specs = [0, 1, 2, 3].map((i) => ({ name: `p${i}`, shape: [ROWS, COLUMNS] }));
  const tokens = (targetTokens: number): PackedTokens => ({
    inputIds: new Int32Array(2),
    labels: new Int32Array(2),
    positions: Int32Array.of(0, 1),
    cuSeqlens: Int32Array.of(0, 2),
    targetTokens,
    width: 2,
  });
  /** The last one has no target: the one before it is the last that is run. */
  const microBatches = [tokens(3), tokens(5), tokens(0)];

  function made(paged: boolean) {
    const run = make(gpu, paged, specs);
    const { arena } = run;
    const model = {
      hiddenStates: () => {
        let x = multiply(arena.get("p0"), arena.get("p1"));
        for (let i = 1; i < LAYERS; i++) x = multiply(x, arena.get(`p${i % 4}`));
        return x;
      },
      tokenLogProb: (hidden: Tensor) => ({ value: reshape(hidden, ROWS * COLUMNS) }),
    } as unknown as CausalLM;
    return { ...run, step: new TrainStep(model, run.optimizer, { seed: 1 }) };
  }

  const NAMES = ["prefetch", "writeBack", "wait", "adamw", "scaleRows"] as const;
  async function train(paged: boolean) {
    const { step, ...run } = made(paged);
    const kernels = gpu.kernels as unknown as Record<string, (...a: unknown[]) => void>;
    const real = Object.fromEntries(NAMES.map((name) => [name, kernels[name]!]));
    const calls: string[] = [];
    for (const name of NAMES)
      kernels[name] = (...a) => {
        calls.push(name);
        real[name]!(...a);
      };
    try {
      const losses: number[] = [];
      const peaks: number[] = [];
      for (let i = 0; i < 2; i++) {
        if (i === 1) calls.length = 0;
        gpu.resetPeak();
        losses.push((await step.run(microBatches, 0.01, 2 * i)).loss);
        peaks.push(gpu.memory.peak);
      }
      return { losses, peaks, calls, bytes: await bytes(run) };
    } finally {
      Object.assign(kernels, real);
      free(run);
    }
  }

  it(
    "has the same bits, less memory, and copies between the ops of both passes",
    async () => {
      const before = await memory();
      const [resident, paged] = [await train(false), await train(true)];
      expect(paged.losses).toEqual(resident.losses);
      expect(paged.bytes).toEqual(resident.bytes);
      // All moments but for what rounding up of a page may cost.
      const moments = 2 * 4 * ROWS * COLUMNS * 4;
      for (const i of [0, 1]) expect(resident.peaks[i]! - paged.peaks[i]!).toBeGreaterThan(0.9 * moments);
      const { calls } = paged;
      const at = (name: string) => calls.flatMap((call, i) => (call === name ? [i] : []));
      const [ops, prefetches, updates] = [at("scaleRows"), at("prefetch"), at("adamw")];
      expect(updates).toHaveLength(8);
      // Both moments of each page: in the second backward pass, all of them.
      expect(prefetches).toHaveLength(16);
      expect(prefetches.filter((i) => i > ops[2 * LAYERS]! && i < ops.at(-1)!).length).toBeGreaterThan(12);
      // What the first step wrote goes back while the second one's first forward pass runs.
      const waits = at("wait").filter((i) => i < ops[LAYERS - 1]!);
      expect(waits).toHaveLength(8);
      expect(new Set(waits.map((i) => ops.filter((op) => op < i).length)).size).toBeGreaterThan(4);
      expect(await memory()).toEqual(before);
    },
    TIME,
  );

  it(
    "that finds no memory forgets what came for it",
    async () => {
      const { step, ...run } = made(true);
      const idle = await memory();
      await step.run(microBatches, 0.01, 0);
      const before = await bytes(run);
      let failed = 0;
      for (let n = 4; ; n += 16) {
        gpu.addon.failAllocation(n);
        const error = await (async () => void (await step.run(microBatches, 0.01, 2)))().catch((caught) => caught);
        gpu.addon.failAllocation(0);
        if (!error) break;
        failed++;
        expect(error).toMatchObject({ code: "OUT_OF_MEMORY" });
        // Once a forward pass is over, what the step before had left on its way is in the host's memory.
        if (n > 2 * LAYERS) expect(await memory()).toEqual(idle);
        expect(await bytes(run)).toEqual(before);
      }
      expect(failed).toBeGreaterThan(5);
      free(run);
    },
    TIME,
  );
});
