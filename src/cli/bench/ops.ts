import { type Device, getDevice } from "../../tensor/device.js";
import { type AttentionShape, attentionCase, attentionGradCase } from "./cases-attention.js";
import { headCase, linearCase, linearDxCase, linearTrainCase } from "./cases-linear.js";
import { adamwCase, dequantizeCase, gluCase, quantizeCase, rmsNormCase, ropeCase } from "./cases-memory.js";
import { modelledMs } from "./model/case.js";
import { GPUS } from "./model/devices.js";
import type { OpCase } from "./op-case.js";
import { overheads } from "./overhead.js";
import { best, MemoryProbe, productRate, TRAFFICS } from "./peaks.js";
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
/** Turns of the probe of what the machine reaches and the op, which is repeated in each; more of them while they last less than this. */
const TURNS = 9;
const [LEAST_MS, LEAST_MS_A_TURN, MOST_TURNS] = [200, 5, 40];
/** An op is repeated without a pause for about as long, as in a step: after a pause its first job waits for threads that sleep. */
const BURST_MS = 2;
const MOST_IN_BURST = 1000;
/** Bytes of the buffers that ops bound by memory pass through in turn: far more than the caches hold. */
const ROTATED = 1 << 29;

export interface OpsBenchOptions {
  device: string;
  /** The GPU whose cost model stands beside what device "cuda:0" measures. */
  gpu: string;
}

/**
 * Yields the measured peaks, what enqueuing takes, then a row an op and shape. Each op's result is checked against float64 before it is timed.
 * A share is of the best that a probe of the same instruction or traffic gave in turns with the op: others' work makes the peaks of another
 * minute another machine's.
 */
export async function* benchOps(options: OpsBenchOptions): AsyncGenerator<Record<string, unknown>> {
  const device = getDevice(options.device);
  const gpu = device.info.separate ? GPUS[options.gpu] : undefined;
  const { isa, threads, bf16 } = device.info;
  using memory = new MemoryProbe(device);
  let memoryPeak = 0;
  for (const traffic of TRAFFICS) memoryPeak = Math.max(memoryPeak, await best(() => memory.rate(traffic)));
  yield {
    kind: "peaks",
    isa,
    threads,
    f32_gflops: rounded(await best(() => productRate(device, false))),
    bf16_gflops: rounded(await best(() => productRate(device, true))),
    memory_gb_s: rounded(memoryPeak),
  };
  yield* overheads(device);
  for (const make of cases(bf16 ? [false, true] : [false])) {
    const modelled = gpu && modelledMs(make, gpu);
    const bench = make(device);
    // What memory bounds runs on other buffers each time, until those of the first run have left the caches.
    const others = "bytes" in bench.work ? Math.ceil(ROTATED / bench.work.bytes) - 1 : 0;
    const benches = [bench, ...Array.from({ length: others }, () => make(device))];
    try {
      const row = await measure(device, benches, memory);
      yield { ...row, ...(modelled !== undefined && { modelled_ms: rounded(modelled) }) };
    } finally {
      for (const each of benches) each.dispose();
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

async function measure(device: Device, benches: readonly OpCase[], memory: MemoryProbe): Promise<Record<string, unknown>> {
  const bench = benches[0]!;
  const error = await bench.error();
  const { addon, number } = device;
  const { op, dtype, m, n, k, work, kernels } = bench;
  const probe = () => ("bytes" in work ? memory.rate(work.traffic) : productRate(device, dtype === "bfloat16"));
  let runs = 0;
  const run = async (burst: number) => {
    addon.profile(number, true);
    for (let i = 0; i < burst; i++) benches[runs++ % benches.length]!.run();
    await device.synchronize();
    const profile = addon.profile(number, false);
    return kernels.reduce((sum, name) => sum + (profile[name]?.ms ?? 0), 0) / burst;
  };
  const burst = Math.min(MOST_IN_BURST, Math.ceil(BURST_MS / (await run(1))));
  const times: number[] = [];
  let [peak, total] = [0, 0];
  for (let turn = 0; turn < TURNS || (total < LEAST_MS && turn < MOST_TURNS); turn++) {
    peak = Math.max(peak, await probe());
    const begun = performance.now();
    do times.push(await run(burst));
    while (performance.now() - begun < LEAST_MS_A_TURN);
    total += performance.now() - begun;
  }
  const { median, p10, p90 } = quantiles(times);
  const [unit, rate] = "flops" in work ? ["gflops", work.flops / median / 1e6] : ["gb_s", work.bytes / median / 1e6];
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
    [unit]: rounded(rate),
    [`peak_${unit}`]: rounded(peak),
    share_of_peak: rounded(rate / peak, 3),
    error_vs_f64: rounded(error, 2),
  };
}
