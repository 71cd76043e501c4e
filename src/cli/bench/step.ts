import { readFileSync } from "node:fs";
import { packTokens } from "../../data/collate.js";
import type { CausalLM } from "../../models/causal-lm.js";
import { Linear } from "../../nn/linear.js";
import { AdamW } from "../../optim/adamw.js";
import { getPeftModel } from "../../peft/peft-model.js";
import { TrainStep } from "../../train/step.js";
import { loadModel } from "../model.js";
import { best, productRate } from "./peaks.js";
import { quantiles, rounded } from "./statistics.js";

export interface StepBenchOptions {
  model: string;
  seq: number;
  batch: number;
  rank: number;
  steps: number;
  dtype: "auto" | "float32";
  checkpointing?: true;
  loadIn4bit?: true;
}

/**
 * Times whole QLoRA steps: all-linear LoRA, alpha 2r, no dropout, random ids that are all targets; forward, backward and AdamW.
 * `share_of_peak` is the step's floating-point work (see `stepFlops`) over the peak measured afterwards ({@link productRate}).
 */
export async function benchStep(options: StepBenchOptions): Promise<Record<string, unknown>> {
  const model = await loadModel(options.model, { dtype: options.dtype, loadIn4bit: options.loadIn4bit === true });
  const { device } = model;
  const quant = options.loadIn4bit ? "nf4" : (model.config.quantization?.quantType ?? "none");
  const peft = getPeftModel(model, { r: options.rank, loraAlpha: 2 * options.rank, targetModules: "all-linear" });
  const { arena } = peft.trainable;
  const optimizer = new AdamW(arena, { maxGradNorm: 1 });
  try {
    const step = new TrainStep(model, optimizer, { seed: 0, gradientCheckpointing: options.checkpointing === true });
    const batch = packTokens(Array.from({ length: options.batch }, (_, i) => randomExample(model.vocabSize, options.seq, i)));
    await step.run([batch], 1e-4, 0);
    device.addon.profile(device.number, true);
    const seconds: number[] = [];
    let loss = 0;
    for (let i = 1; i <= options.steps; i++) {
      const begun = performance.now();
      ({ loss } = await step.run([batch], 1e-4, i));
      seconds.push((performance.now() - begun) / 1000);
    }
    const profile = device.addon.profile(device.number, false);
    const peakRss = highWaterMib();
    const { median, p10, p90 } = quantiles(seconds);
    const tokens = options.seq * options.batch;
    const peak = await best(() => productRate(device, model.bf16));
    const gflops = stepFlops(model, arena.size, options) / median / 1e9;
    return {
      kind: "step",
      quant,
      dtype: model.bf16 ? "bfloat16" : "float32",
      isa: device.info.isa,
      threads: device.info.threads,
      seq: options.seq,
      batch: options.batch,
      rank: options.rank,
      checkpointing: options.checkpointing === true,
      seconds: rounded(median),
      tokens_per_s: rounded(tokens / median),
      p10: rounded(p10),
      p90: rounded(p90),
      peak_rss_mib: Math.round(peakRss),
      loss: rounded(loss, 7),
      share_of_peak: rounded(gflops / peak, 3),
      by_op: byOp(profile, options.steps, seconds),
    };
  } finally {
    await device.synchronize().catch(() => {});
    optimizer.dispose();
    peft.dispose();
  }
}

/** Ids drawn by a small generator of its own, so that runs compare. Every token but the first is a target. */
function randomExample(vocabSize: number, length: number, seed: number) {
  let state = seed * 2_654_435_761 + 1;
  const inputIds = Int32Array.from({ length }, () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * vocabSize);
  });
  return { inputIds, labels: inputIds };
}

/**
 * Multiplications and additions of one step: frozen linears forward and dX (2 + 2 a weight and token), LoRA forward, dX and its own
 * gradients (6 a parameter and token), the frozen head (4), causal attention forward and backward (7 products of half of S × S × d).
 * Recomputation counts as work not done, so checkpointing lowers the share.
 */
export function stepFlops(model: CausalLM, adapterSize: number, { seq, batch }: { seq: number; batch: number }): number {
  let linear = 0;
  for (const [, module] of model.modules())
    if (module instanceof Linear) linear += module.weight.inFeatures * module.weight.outFeatures;
  const { numHeads, headDim, numLayers } = model.config;
  const attention = numLayers * 7 * seq * seq * numHeads * headDim;
  return batch * (seq * (4 * linear + 6 * adapterSize) + attention);
}

/** Milliseconds a step by kernel, largest first; `between` is what the steps took besides. */
function byOp(
  profile: Record<string, { calls: number; ms: number }>,
  steps: number,
  seconds: readonly number[],
): Record<string, number> {
  const entries = Object.entries(profile)
    .filter(([, { calls }]) => calls > 0)
    .map(([name, { ms }]) => [name, ms / steps] as const)
    .sort((a, b) => b[1] - a[1]);
  const total = (1000 * seconds.reduce((sum, s) => sum + s, 0)) / steps;
  const kernels = entries.reduce((sum, [, ms]) => sum + ms, 0);
  return Object.fromEntries(
    [...entries, ["between", Math.max(0, total - kernels)] as const].map(([name, ms]) => [name, rounded(ms, 3)]),
  );
}

/** High-water mark of the process's resident memory in MiB, loading included. */
function highWaterMib(): number {
  const line = /^VmHWM:\s*(\d+) kB/m.exec(readFileSync("/proc/self/status", "utf8"));
  return Number(line?.[1] ?? 0) / 1024;
}
