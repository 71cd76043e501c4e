import { type Device, getDevice } from "../../tensor/device.js";
import { type AttentionShape, attentionCase, attentionGradCase } from "./cases-attention.js";
import { headCase, linearCase, linearDxCase, linearTrainCase } from "./cases-linear.js";
import { adamwCase, dequantizeCase, gluCase, quantizeCase, rmsNormCase, ropeCase } from "./cases-memory.js";
import { modelledMs } from "./model/case.js";
import { GPUS } from "./model/devices.js";
import type { OpCase } from "./op-case.js";
import { overheads } from "./overhead.js";
import { measurePeaks, type Peaks } from "./peaks.js";
import { quantiles, rounded } from "./statistics.js";

/** [out, in] of one linear each: SmolLM2-135M's gate and down, Llama-3-8B's q and gate. */
const SMOLLM2 = [
  [1536, 576],
  [576, 1536],
] as const;
const LLAMA3 = [
  [4096, 4096],
  [14336, 4096],
] as const;
/** Attention of the same two models. */
const ATTENTION: readonly AttentionShape[] = [
  [512, 9, 3, 64],
  [1024, 32, 8, 128],
];
const REPEATS = 9;

export interface OpsBenchOptions {
  device: string;
  /** The GPU whose cost model stands beside what device "cuda:0" measures. */
  gpu: string;
}

/** Yields the measured peaks, what enqueuing takes, then a row an op and shape. Each op's result is checked against float64 before it is timed. */
export async function* benchOps(options: OpsBenchOptions): AsyncGenerator<Record<string, unknown>> {
  const device = getDevice(options.device);
  const gpu = device.info.separate ? GPUS[options.gpu] : undefined;
  const { isa, threads, bf16 } = device.info;
  const peaks = await measurePeaks(device);
  yield {
    kind: "peaks",
    isa,
    threads,
    f32_gflops: rounded(peaks.f32Gflops),
    bf16_gflops: rounded(peaks.bf16Gflops),
    memory_gb_s: rounded(peaks.memoryGbS),
  };
  yield* overheads(device);
  for (const make of cases(bf16 ? [false, true] : [false])) {
    const modelled = gpu && modelledMs(make, gpu);
    const bench = make(device);
    try {
      const row = await measure(device, bench, peaks);
      yield { ...row, ...(modelled !== undefined && { modelled_ms: rounded(modelled) }) };
    } finally {
      bench.dispose();
      await device.synchronize();
      device.addon.trim(device.number);
    }
  }
}

function* cases(maths: readonly boolean[]): Generator<(device: Device) => OpCase> {
  for (const bf16 of maths) {
    for (const [n, k] of [...SMOLLM2, ...LLAMA3]) {
      yield (device) => linearCase(device, "nf4", [512, n, k], bf16);
      yield (device) => linearDxCase(device, [512, n, k], bf16);
      for (const rank of [0, 16]) yield (device) => linearTrainCase(device, [512, n, k], bf16, rank);
      yield (device) => linearCase(device, "nf4", [1, n, k], bf16);
    }
    for (const [n, k] of SMOLLM2) yield (device) => linearCase(device, "dense", [512, n, k], bf16);
    yield (device) => headCase(device, [256, 49_152, 576], bf16);
    for (const shape of ATTENTION) {
      yield (device) => attentionCase(device, shape, bf16);
      yield (device) => attentionGradCase(device, shape, bf16);
    }
  }
  yield (device) => rmsNormCase(device, 4096, 2048);
  yield (device) => ropeCase(device, [4096, 32, 128]);
  yield (device) => gluCase(device, 2048, 4096);
  yield (device) => quantizeCase(device, 4096, 4096);
  yield (device) => dequantizeCase(device, 4096, 4096);
  yield (device) => adamwCase(device, 1 << 24);
}

async function measure(device: Device, bench: OpCase, peaks: Peaks): Promise<Record<string, unknown>> {
  const error = await bench.error();
  const { addon, number } = device;
  const times: number[] = [];
  for (let i = -1; i < REPEATS; i++) {
    addon.profile(number, true);
    bench.run();
    await device.synchronize();
    const profile = addon.profile(number, false);
    if (i >= 0) times.push(bench.kernels.reduce((sum, name) => sum + (profile[name]?.ms ?? 0), 0));
  }
  const { median, p10, p90 } = quantiles(times);
  const { op, dtype, m, n, k, work } = bench;
  const gflops = "flops" in work ? work.flops / median / 1e6 : undefined;
  const gbS = "bytes" in work ? work.bytes / median / 1e6 : undefined;
  const peak = dtype === "bfloat16" ? peaks.bf16Gflops : peaks.f32Gflops;
  return {
    kind: "op",
    op,
    dtype,
    isa: device.info.isa,
    m,
    n,
    k,
    median_ms: rounded(median),
    p10_ms: rounded(p10),
    p90_ms: rounded(p90),
    ...(gflops === undefined ? { gb_s: rounded(gbS!) } : { gflops: rounded(gflops) }),
    share_of_peak: rounded(gflops === undefined ? gbS! / peaks.memoryGbS : gflops / peak, 3),
    error_vs_f64: rounded(error, 2),
  };
}
