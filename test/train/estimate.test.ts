/** What estimateRun says before a run, against the counters of the devices that then run it. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { LLAMA3_8B } from "../../src/cli/bench/model/model.js";
import { packTokens } from "../../src/data/collate.js";
import { AutoModelForCausalLM } from "../../src/models/registry.js";
import { getDevice } from "../../src/tensor/device.js";
import { parseTrainConfig } from "../../src/train/config.js";
import { estimateRun } from "../../src/train/estimate.js";
import { withAdapter } from "../../src/train/lora.js";
import { createOptimizer } from "../../src/train/optimizer.js";
import { TrainStep } from "../../src/train/step.js";
import { adapterTrainable } from "../../src/train/trainable.js";
import { tempFolder } from "../io/files.js";
import { TINY } from "./tiny.js";

/** Of a test on a busy machine. */
const TIME = 300_000;
const config = (device: string, keys: Record<string, unknown> = {}) =>
  parseTrainConfig({
    model_name_or_path: TINY,
    dataset: "none",
    output_dir: "none",
    template: "chatml",
    device,
    quantization_bit: 4,
    lora_rank: 8,
    per_device_train_batch_size: 2,
    ...(keys as object),
  }).config;
const LONGEST = 24;

/** Peaks of real steps on the device itself. */
async function measured(device: string, keys: Record<string, unknown>, steps: number) {
  const settings = config(device, keys);
  const real = getDevice(device);
  await real.synchronize();
  real.addon.trim(real.number);
  const before = real.memory;
  const model = await AutoModelForCausalLM.fromPretrained(TINY, { device, loadIn4bit: settings.quantizationBit === 4 });
  await real.synchronize();
  real.addon.trim(real.number); // the buffers that loading went through
  real.resetPeak();
  const peft = await withAdapter(model, settings, { seed: 0, ignoreMismatchedBase: false });
  const trainable = adapterTrainable(peft);
  const optimizer = createOptimizer(settings, trainable);
  const step = new TrainStep(model, optimizer, { ...settings, seed: 0 });
  const ids = Int32Array.from({ length: LONGEST }, (_, i) => 20 + i);
  const tokens = packTokens(Array.from({ length: settings.perDeviceTrainBatchSize }, () => ({ inputIds: ids, labels: ids })));
  for (let i = 0; i < steps; i++) await step.run([tokens], 1e-3, i);
  const { mostHeld, hostPeak } = real.memory;
  optimizer.dispose();
  peft.dispose();
  await real.synchronize();
  real.addon.trim(real.number);
  return { device: mostHeld - before.live, host: hostPeak - before.host };
}

const within3 = (estimate: number, real: number) => Math.abs(estimate / real - 1) < 0.03;

describe("estimateRun", () => {
  it("refuses a micro-batch of too many tokens", async () => {
    const keys = { per_device_train_batch_size: 16384, cutoff_len: 1025 };
    await expect(estimateRun(config("cpu", keys), TINY, 2000)).rejects.toMatchObject({
      code: "INVALID_CONFIG",
      message: expect.stringContaining("16793600 tokens, at most 16777216"),
    });
  });

  it.each([
    ["emu", "NF4, layers recomputed", { gradient_checkpointing: true }],
    [
      "emu",
      "paged moments, activations offloaded",
      { gradient_checkpointing: true, activation_offloading: true, optim: "paged_adamw_32bit" },
    ],
    ["cpu", "NF4, activations kept", {}],
    ["cpu", "DoRA and a copy of the head", { use_dora: true, additional_target: "lm_head" }],
    ["cpu", "PiSSA, which keeps what it took from the base", { quantization_bit: null, pissa_init: true, lora_rank: 32 }],
    ["cpu", "float32 weights, SGD, layers recomputed", { quantization_bit: null, optim: "sgd", gradient_checkpointing: true }],
  ])(
    "meets the allocator's peak within 3 %%, on %s: %s",
    async (device, _, keys) => {
      const paged = "optim" in keys && String(keys.optim).startsWith("paged");
      const estimate = await estimateRun(config(device, keys), TINY, LONGEST);
      const real = await measured(device, keys, paged ? 2 : 1);
      const process = device === "cpu" ? 150 << 20 : 0;
      expect(within3(estimate.totalBytes - process, real.device), `${estimate.totalBytes - process} but ${real.device}`).toBe(
        true,
      );
      expect(estimate.hostBytes).toBe(real.host);
      expect(estimate.hostBytes > 0).toBe(paged);
      expect(estimate.weightBytes + estimate.optimizerBytes + estimate.activationBytes).toBe(estimate.totalBytes - process);
    },
    TIME,
  );

  it("grows with tokens and rank, and shrinks by recomputation, paging and offloading", async () => {
    const total = async (keys: Record<string, unknown>, longest = 500) =>
      (await estimateRun(config("emu", { cutoff_len: 4096, ...keys }), TINY, longest)).totalBytes;
    const recomputed = { gradient_checkpointing: true };
    const [plain, longer, wider, less] = [
      await total({}),
      await total({}, 1000),
      await total({ lora_rank: 64 }),
      await total(recomputed),
    ];
    expect(longer).toBeGreaterThan(1.8 * plain - (await total({}, 10)));
    expect(wider).toBeGreaterThan(plain);
    expect(less).toBeLessThan(plain);
    expect(await total({ ...recomputed, activation_offloading: true })).toBeLessThanOrEqual(less);
    const moments = async (optim: string) => (await estimateRun(config("emu", { optim }), TINY, 10)).optimizerBytes;
    expect(await moments("paged_adamw_32bit")).toBeLessThan(0.6 * (await moments("adamw_torch")));
  });

  it(
    "counts state that this machine's memory could not hold",
    async () => {
      const folder = join(tempFolder(), "llama");
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "config.json"), JSON.stringify(LLAMA3_8B));
      const keys = {
        finetuning_type: "full",
        quantization_bit: null,
        optim: "paged_adamw_32bit",
        per_device_train_batch_size: 1,
        cutoff_len: 64,
      };
      const { hostBytes, trainableParameters } = await estimateRun(config("emu", keys), folder, 64);
      expect(trainableParameters).toBe(8_030_261_248);
      expect(hostBytes / (8 * trainableParameters)).toBeCloseTo(1, 2);
    },
    TIME,
  );

  it(
    "knows Llama-3-8B's weights and adapter without having them, and leaves nothing behind",
    async () => {
      const folder = join(tempFolder(), "llama");
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, "config.json"), JSON.stringify(LLAMA3_8B));
      const dry = getDevice("dry:emu");
      const keys = { lora_rank: 16, gradient_checkpointing: true, per_device_train_batch_size: 1, cutoff_len: 2048 };
      const estimate = await estimateRun(config("emu", keys), folder, 2048);
      // 6 979 321 856 weights of linears in 4 bits with nested statistics, embedding and head in bfloat16, 65 norms.
      const fourBit = (6_979_321_856 * (4 + 8 / 64 + 32 / 16384)) / 8;
      const rest = 2 * 128_256 * 4096 * 2 + 65 * 4096 * 4;
      expect(Math.abs(estimate.weightBytes / (fourBit + rest) - 1)).toBeLessThan(0.001);
      expect(estimate.trainableParameters).toBe(41_943_040);
      expect(estimate.optimizerBytes / (41_943_040 * 16)).toBeCloseTo(1, 2);
      expect(estimate.tokens).toBe(2048);
      await dry.synchronize();
      expect(dry.memory).toMatchObject({ live: 0, host: 0, pooled: 0, tensors: 0 });
    },
    TIME,
  );
});

describe("a memory budget", () => {
  it("is kept: what does not fit is refused with the bytes needed and free, and goes through once the budget is larger", async () => {
    const device = getDevice("cpu");
    await device.synchronize();
    device.addon.trim(device.number);
    device.memoryBudget = device.memory.held + (1 << 20);
    const budget = device.memory.held + (256 << 10);
    try {
      const error = await AutoModelForCausalLM.fromPretrained(TINY, { memoryBudget: budget }).catch((e) => e);
      expect(device.memoryBudget).toBe(budget);
      expect(error).toBeInstanceOf(Error);
      expect(error).toMatchObject({ code: "OUT_OF_MEMORY", details: { needed: expect.any(Number), free: expect.any(Number) } });
      expect(error.details.needed).toBeGreaterThan(error.details.free);
      expect(error.details.free).toBeLessThanOrEqual(256 << 10);
    } finally {
      device.memoryBudget = undefined;
    }
    (await AutoModelForCausalLM.fromPretrained(TINY)).dispose();
    expect(() => {
      device.memoryBudget = 0;
    }).toThrow(/above 0/);
    expect(device.memoryBudget).toBeUndefined();
  });

  it.each([
    ["12GiB", 12 * 2 ** 30],
    ["800m", 800 * 2 ** 20],
    [5_000_000, 5_000_000],
    ["1.5 GB", 1.5 * 2 ** 30],
  ])("is read from a configuration: %s", (text, bytes) => {
    expect(config("cpu", { memory_budget: text }).memoryBudget).toBe(bytes);
  });

  it.each(["twelve", "-1", "0", "1e400"])("is refused as %s", (text) => {
    expect(() => config("cpu", { memory_budget: text })).toThrow(/memory_budget should be a number of bytes/);
  });
});
