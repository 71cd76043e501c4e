import { copyInto } from "../../ops/copy.js";
import { linearGroup } from "../../ops/linear.js";
import { fillRandom } from "../../ops/random.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";
import { quantiles } from "./statistics.js";

export interface Peaks {
  /** Products in float32, and with operands rounded to bfloat16. */
  f32Gflops: number;
  bf16Gflops: number;
  /** Reading and writing, counted together. */
  copyGbS: number;
}

/** Sizes of the product that the peak is taken from: all of it lies in the second-level caches of the panels. */
const ROWS = 768;
const COLUMNS = 2048;
const DEPTH = 1024;
const REPEATS = 7;

/** Times `body` on an idle stream, milliseconds each. */
export async function timed(device: Device, repeats: number, body: () => void): Promise<number[]> {
  scope(body);
  await device.synchronize();
  const times: number[] = [];
  for (let i = 0; i < repeats; i++) {
    const begun = performance.now();
    scope(body);
    await device.synchronize();
    times.push(performance.now() - begun);
  }
  return times;
}

/** A float32 tensor of standard normal values. */
export function randomTensor(device: Device, shape: readonly number[], name: string): Tensor {
  const tensor = Tensor.empty(shape, { device });
  fillRandom(tensor, { normal: { mean: 0, std: 1 } }, randomKey(1, name));
  return tensor;
}

/**
 * What this machine reaches now: the best time of a dense product that fits its caches (float32, and operands rounded to bfloat16),
 * and of copying 256 MiB. Shares of peak are shares of these.
 */
export async function measurePeaks(device: Device): Promise<Peaks> {
  const x = randomTensor(device, [ROWS, DEPTH], "x");
  const w = Weight.dense(randomTensor(device, [COLUMNS, DEPTH], "w"));
  const from = randomTensor(device, [1 << 26], "from");
  const to = Tensor.empty([1 << 26], { device });
  try {
    const flops = 2 * ROWS * COLUMNS * DEPTH;
    const rate = async (bf16: boolean) => {
      const layer = { weight: w, bias: undefined, segments: [] };
      return flops / Math.min(...(await timed(device, REPEATS, () => linearGroup(x, [layer], { bf16 })))) / 1e6;
    };
    const f32Gflops = await rate(false);
    const bf16Gflops = await rate(true);
    const copy = quantiles(await timed(device, REPEATS, () => copyInto(to, from))).median;
    return { f32Gflops, bf16Gflops, copyGbS: (2 * from.byteLength) / copy / 1e6 };
  } finally {
    for (const tensor of [x, w, from, to]) tensor.dispose();
  }
}
