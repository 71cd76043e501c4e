/** The cost model of `lowrank bench model`: its sizes are those of the sources, its counts those of loops written out here. */
import { beforeAll, describe, expect, it } from "vitest";
import { linearCase } from "../../src/cli/bench/cases-linear.js";
import { adamwCase, dequantizeCase } from "../../src/cli/bench/cases-memory.js";
import { modelledMs } from "../../src/cli/bench/model/case.js";
import { costOf, gemm, launchesOf } from "../../src/cli/bench/model/cost.js";
import { GPUS } from "../../src/cli/bench/model/devices.js";
import { benchModel } from "../../src/cli/bench/model/model.js";
import { TILES } from "../../src/cli/bench/model/tiles.js";
import { Trace } from "../../src/cli/bench/model/trace.js";
import { loadAddon } from "../../src/native/load.js";

const gpu = GPUS.h100!;

describe("sizes", () => {
  it("are those that the kernels' sources state", async () => {
    const { readTiles } = (await import("../../scripts/cuda/tiles.mjs" as string)) as { readTiles(): unknown };
    expect(TILES).toEqual(readTiles());
  });
});

describe("a product", () => {
  it.each([
    [2048, 4096, 4096, 16],
    [500, 1000, 700, 0],
    [70, 130, 4096, 8],
  ])("is counted tile by tile: %i x %i over %i, rank %i", (rows, columns, depth, rank) => {
    const { large, small, enough } = TILES.gemm;
    const many = Math.ceil(rows / large.rows) * Math.ceil(columns / large.columns);
    const tile = many >= enough ? large : small;
    const { step } = tile;
    let [blocks, tensor, l2] = [0, 0, 0];
    for (let row = 0; row < rows; row += tile.rows)
      for (let column = 0; column < columns; column += tile.columns) {
        blocks++;
        for (let k = 0; k < depth; k += step) {
          const deep = Math.min(step, depth - k);
          tensor += 2 * tile.rows * tile.columns * Math.ceil(deep / 16) * 16;
          l2 += deep * (tile.rows * 2 + tile.columns * 0.5);
        }
        tensor += 2 * tile.rows * tile.columns * Math.ceil(rank / 16) * 16;
      }
    const launch = gemm([{ rows, columns, depth, rank }], "coded", 0.5, gpu);
    expect(launch.blocks).toBe(blocks);
    expect(launch.tensor).toBe(tensor);
    expect(launch.l2).toBeCloseTo(l2, 0);
    expect(launch.useful).toBe(2 * rows * columns * (depth + rank));
    expect(launch.dram).toBeGreaterThanOrEqual(2 * rows * depth + 0.5 * columns * depth + 4 * rows * columns);
  });
});

describe("a launch", () => {
  it("takes as long as its slowest resource, its last wave and a launch at least", () => {
    const bytes = 3e9;
    expect(costOf({ kernel: "copy", dram: bytes }, gpu)).toMatchObject({
      bound: "dram",
      seconds: bytes / gpu.dram,
      ideal: bytes / gpu.dram,
    });
    expect(costOf({ kernel: "tiny", dram: 4 }, gpu)).toMatchObject({ bound: "launch", seconds: gpu.launch });
    const full = { kernel: "mma", tensor: 1e12, useful: 1e12, blocks: gpu.multiprocessors };
    const [whole, one] = [costOf(full, gpu), costOf({ ...full, blocks: gpu.multiprocessors + 1 }, gpu)];
    expect(whole.seconds).toBeCloseTo(1e12 / gpu.tensor / gpu.mmaShare, 12);
    expect(one.seconds / whole.seconds).toBeCloseTo((2 * gpu.multiprocessors) / (gpu.multiprocessors + 1), 9);
  });

  it("of attention does the work of every visible pair, and its tiles a little more", () => {
    const trace = new Trace(loadAddon());
    const { addon } = trace;
    const d = addon.openDevice("dry:cpu");
    const [tokens, heads, kvHeads, size] = [192, 4, 2, 128];
    const q = addon.alloc(d, 0, [tokens, heads, size]);
    const [k, cu] = [addon.alloc(d, 0, [tokens, kvHeads, size]), addon.alloc(d, 3, [3])];
    const launch = (op: "attention" | "attentionGrad", bf16 = 0) =>
      launchesOf({ op, args: [Float64Array.of(0, 0, q, k, k, cu, 0, 0, 0, 1, 0, 0, tokens / 2, bf16)] }, trace, gpu);
    let pairs = 0;
    for (let s = 0; s < 2; s++) for (let i = 0; i < tokens / 2; i++) pairs += i + 0.5;
    const work = pairs * heads * 2 * size;
    expect(launch("attention")[0]!.useful).toBeCloseTo(2 * work, -3);
    expect(launch("attention")[0]!.lanes).toBeGreaterThan(2 * work);
    // The five products of the gradient; two of them are computed twice.
    expect(launch("attentionGrad").reduce((sum, { useful = 0 }) => sum + useful, 0)).toBeCloseTo(5 * work, -3);
    expect(launch("attentionGrad").reduce((sum, { lanes = 0 }) => sum + lanes, 0)).toBeGreaterThan(7 * work);
    // In bf16 on tensor cores, over K and V that were laid out before: tiles of queries of a group, of keys, and their waste on the diagonal.
    const [laid, forward] = launch("attention", 1);
    expect([laid!.kernel, laid!.dram]).toEqual(["lay_kernel", 6 * 2 * tokens * kvHeads * size]);
    expect(forward).toMatchObject({ kernel: "attention_bf16_kernel", useful: launch("attention")[0]!.useful });
    for (const [{ tensor = 0, shared = 0 }, products] of [
      [forward!, 2],
      [launch("attentionGrad", 1)[2]!, 3],
      [launch("attentionGrad", 1)[3]!, 4],
    ] as const) {
      expect(tensor).toBeGreaterThan(products * work);
      expect(tensor).toBeLessThan(2 * products * work);
      expect(shared).toBeGreaterThan((products * work) / 32); // a tile of n rows is read for every 16 or 32 rows of a warp
    }
    expect(launch("attentionGrad", 1).reduce((sum, { useful = 0 }) => sum + useful, 0)).toBeCloseTo(5 * work, -3);
    for (const t of [q, k, cu]) addon.free(t);
  });
});

describe("a case of bench ops", () => {
  it("is modelled from its own ops, float32 products are not", () => {
    const [n, k] = [4096, 4096];
    const read = n * k * (0.5 + 4 / 64);
    expect(modelledMs((device) => dequantizeCase(device, n, k), gpu)).toBeCloseTo((1000 * (read + 4 * n * k)) / gpu.dram, 6);
    expect(modelledMs((device) => adamwCase(device, 1 << 24), gpu)).toBeCloseTo((1000 * 28 * 2 ** 24) / gpu.dram, 6);
    expect(modelledMs((device) => linearCase(device, "nf4", [512, n, k], false), gpu)).toBeUndefined();
    const least = (2000 * 512 * n * k) / gpu.tensor;
    expect(modelledMs((device) => linearCase(device, "nf4", [512, n, k], true), gpu)).toBeGreaterThan(least);
  });
});

describe("lowrank bench model", () => {
  const rows: Record<string, unknown>[] = [];
  beforeAll(async () => {
    for await (const row of benchModel("h100")) rows.push(row);
  }, 120_000);
  const of = (kind: string, where: Record<string, unknown> = {}) =>
    rows.filter((row) => row.kind === kind && Object.entries(where).every(([key, value]) => row[key] === value));

  it("says first that it is a model", () => {
    expect(rows[0]).toMatchObject({ kind: "model", device: "h100", note: expect.stringContaining("Nothing here was measured") });
  });

  it("has for each length kernels whose times are the step's, a layer, and a step", () => {
    for (const seq of [512, 2048, 8192])
      for (const checkpointing of [true, false]) {
        const [step, ...others] = of("model_step", { seq, checkpointing });
        expect(others).toEqual([]);
        const kernels = of("model_kernel", { seq, checkpointing });
        const total = kernels.reduce((sum, { ms }) => sum + (ms as number), 0);
        expect(Math.abs(total / (step!.ms as number) - 1)).toBeLessThan(0.01);
        expect(Math.abs(((seq / (step!.ms as number)) * 1000) / (step!.tokens_per_s as number) - 1)).toBeLessThan(0.001);
        const [layer] = of("model_layer", { seq, checkpointing });
        expect(32 * (layer!.ms as number)).toBeLessThan(step!.ms as number);
        for (const { share_of_roofline } of kernels) expect(share_of_roofline).toBeLessThanOrEqual(1);
      }
    const ms = (checkpointing: boolean) => of("model_step", { seq: 2048, checkpointing })[0]!.ms as number;
    expect(ms(true)).toBeGreaterThan(ms(false));
  });

  it("counts the launches of 32 layers", () => {
    const calls = (kernel: string, checkpointing: boolean) => of("model_kernel", { seq: 2048, checkpointing, kernel })[0]!.calls;
    expect([calls("attention_bf16_kernel", false), calls("attention_bf16_kernel", true)]).toEqual([32, 64]);
    expect(calls("attention_dq_bf16_kernel", true)).toBe(32);
    expect(calls("adamw_kernel", true)).toBe(1);
    // Forward: qkv, o, gate and up, down; backward: the same but for dx of the first layer's q, k, v.
    expect(calls("gemm_bf16_large (coded)", false)).toBe(32 * 8 - 1);
  });

  it("holds each goal against what it computes, with what bounds it", () => {
    const goals = of("model_goal");
    expect(new Set(goals.map(({ goal }) => goal))).toEqual(new Set(["G1", "G3", "G6", "G7", "G8", "G9"]));
    for (const { met, modelled, wanted, what } of goals)
      expect(met).toBe(
        /ms$/.test(what as string) ? (modelled as number) <= (wanted as number) : (modelled as number) >= (wanted as number),
      );
  });
});
