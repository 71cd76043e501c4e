/**
 * Memory and time of QLoRA steps at Llama-3-8B's shapes, with random NF4 weights, beside what `estimate` says. Where no GPU is under test the shapes
 * are a small Llama's: the same program, no figures of interest.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, type TestContext } from "vitest";
import { LLAMA3_8B } from "../../src/cli/bench/model/model.js";
import { packTokens } from "../../src/data/collate.js";
import type { CausalLM } from "../../src/models/causal-lm.js";
import { usesBf16 } from "../../src/models/from-pretrained.js";
import { Embedding } from "../../src/nn/embedding.js";
import { Linear } from "../../src/nn/linear.js";
import { RMSNorm } from "../../src/nn/rms-norm.js";
import { fillRandom } from "../../src/ops/random.js";
import { getPeftModel } from "../../src/peft/peft-model.js";
import { getDevice } from "../../src/tensor/device.js";
import { randomKey } from "../../src/tensor/random.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { parseTrainConfig } from "../../src/train/config.js";
import { emptyModel, estimateRun } from "../../src/train/estimate.js";
import { createOptimizer } from "../../src/train/optimizer.js";
import { stepOptions, TrainStep } from "../../src/train/step.js";
import { adapterTrainable } from "../../src/train/trainable.js";
import { tempFolder } from "../io/files.js";
import { uniform } from "../reference/numeric.js";

const name = process.env.LOWRANK_TEST_DEVICES ?? "emu";
const device = getDevice(name);
const full = name.startsWith("cuda");
const json = full
  ? LLAMA3_8B
  : {
      ...LLAMA3_8B,
      vocab_size: 256,
      hidden_size: 64,
      intermediate_size: 128,
      num_hidden_layers: 2,
      num_attention_heads: 2,
      num_key_value_heads: 1,
    };
const seq = (tokens: number) => (full ? tokens : tokens / 128);

/** Weights as they come from training, near enough: nothing is zero, nothing grows. */
function fill(model: CausalLM): void {
  const draw = uniform(7);
  const bytes = Uint8Array.from({ length: 1 << 20 }, () => Math.floor(draw() * 256));
  const random = (t: Tensor) => {
    for (let at = 0; at < t.size; at += bytes.length)
      scope(() =>
        t.slice(at, Math.min(at + bytes.length, t.size)).upload(bytes.subarray(0, Math.min(bytes.length, t.size - at))),
      );
  };
  const normal = (t: Tensor, key: string) =>
    scope(() => {
      const [rows = 0, columns = 1] = t.shape;
      const step = Math.max(1, Math.floor((1 << 24) / columns));
      for (let row = 0; row < rows; row += step) {
        const part = t.slice(row, Math.min(row + step, rows));
        const values = Tensor.empty(part.shape, { device });
        fillRandom(values, { normal: { mean: 0, std: 0.02 } }, randomKey(row, key));
        device.kernels.copy(device.number, part.handle, values.handle);
      }
    });
  for (const [path, module] of model.modules()) {
    const parts = module instanceof Linear ? module.weight.fourBitParts : undefined;
    if (parts?.nested) {
      random(parts.codes);
      random(parts.absmax);
      // Scales of 0.01 to 0.05, as absmax of weights of standard deviation 0.02.
      parts.nested.absmax.upload(new Float32Array(parts.nested.absmax.size).fill(0.02));
      parts.nested.offset.upload(Float32Array.of(0.03));
    } else if (module instanceof Linear && module.weight.dense) normal(module.weight.dense, path);
    else if (module instanceof RMSNorm) module.weight.upload(new Float32Array(module.weight.size).fill(1));
    else if (module instanceof Embedding) normal(module.weight, path);
  }
}

async function run(keys: Record<string, unknown>, tokens: number, { task }: TestContext): Promise<void> {
  const folder = join(tempFolder(), "llama");
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(json));
  const config = parseTrainConfig({
    model_name_or_path: folder,
    dataset: "none",
    output_dir: "none",
    device: name,
    quantization_bit: 4,
    lora_rank: 16,
    lora_target: "all",
    per_device_train_batch_size: 1,
    cutoff_len: tokens,
    ...(keys as object),
  }).config;
  const estimate = await estimateRun(config, folder, tokens);
  await device.synchronize();
  device.addon.trim(device.number);
  device.resetPeak();
  const before = device.memory;
  const seconds: number[] = [];
  let loss = 0;
  const model = emptyModel(config, json, device, usesBf16("auto", device));
  const peft = getPeftModel(model, { r: 16, targetModules: "all-linear" });
  try {
    fill(model);
    await device.synchronize();
    device.addon.trim(device.number);
    device.resetPeak();
    const optimizer = createOptimizer(config, adapterTrainable(peft));
    const step = new TrainStep(model, optimizer, stepOptions(config));
    const draw = uniform(3);
    const ids = Int32Array.from({ length: tokens }, () => Math.floor(draw() * json.vocab_size));
    for (let i = 0; i < 3; i++) {
      const begun = performance.now();
      ({ loss } = await step.run([packTokens([{ inputIds: ids, labels: ids }])], 1e-4, i));
      if (i > 0) seconds.push((performance.now() - begun) / 1000);
    }
    optimizer.dispose();
  } finally {
    peft.dispose();
  }
  const { mostHeld, hostPeak } = device.memory;
  const process = device.info.separate ? 0 : 150 << 20;
  const measured = { held_bytes: mostHeld - before.held, host_bytes: hostPeak - before.host };
  const best = Math.min(...seconds);
  Object.assign(task.meta, {
    row: {
      kind: "memory",
      model: full ? "Llama-3-8B" : "a small Llama",
      seq: tokens,
      ...keys,
      ...measured,
      estimated_bytes: estimate.totalBytes - process,
      estimated_host_bytes: estimate.hostBytes,
      seconds: best,
      tokens_per_s: tokens / best,
      loss,
    },
  });
  expect(loss).toBeGreaterThan(0.5 * Math.log(json.vocab_size));
  expect(loss).toBeLessThan(3 * Math.log(json.vocab_size));
  expect(Math.abs(measured.held_bytes / (estimate.totalBytes - process) - 1)).toBeLessThan(0.03);
  expect(measured.host_bytes).toBe(estimate.hostBytes);
}

describe(`QLoRA steps of ${full ? "Llama-3-8B" : "a small Llama"} on ${name}`, () => {
  const paged = device.info.separate ? [{ optim: "paged_adamw_8bit", activation_offloading: true }] : [];
  for (const keys of [{}, ...paged].map((keys) => ({ gradient_checkpointing: true, ...keys })))
    it(`${seq(2048)} tokens, ${Object.keys(keys).join(", ")}`, (context) => run(keys, seq(2048), context), 600_000);
  it(`${seq(512)} tokens, activations kept`, (context) => run({}, seq(512), context), 600_000);
});
