import { addInto, copyInto } from "../../ops/copy.js";
import { linearGroup } from "../../ops/linear.js";
import { fillRandom } from "../../ops/random.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";

export interface Peaks {
  /** Products in float32, and with operands rounded to bfloat16. */
  f32Gflops: number;
  bf16Gflops: number;
  /** Memory read and written, counted together. */
  memoryGbS: number;
}

/** [rows, columns, depth] of the products that the peak is taken from: the best of them counts. */
const PRODUCTS = [
  [512, 1536, 576],
  [768, 2048, 1024],
  [1024, 4096, 1024],
] as const;
/** Elements of the arrays that memory is measured with: far more than the caches hold. */
const MEMORY = 1 << 26;
const REPEATS = 25;

/** Times `body` on an idle stream, milliseconds each. */
export async function timed(device: Device, repeats: number, body: () => unknown): Promise<number[]> {
  const run = () => scope(() => void body());
  run();
  await device.synchronize();
  const times: number[] = [];
  for (let i = 0; i < repeats; i++) {
    const begun = performance.now();
    run();
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
 * What this machine reaches now: the best rate of the package's own dense product over some shapes (float32, and operands rounded to
 * bfloat16), and of adding or copying 256 MiB. Shares of peak are shares of these: a machine that others use too gives shares above one.
 */
export async function measurePeaks(device: Device): Promise<Peaks> {
  const best = { f32Gflops: 0, bf16Gflops: 0 };
  for (const [rows, columns, depth] of PRODUCTS) {
    using x = randomTensor(device, [rows, depth], "x");
    const weight = Weight.dense(randomTensor(device, [columns, depth], "w"));
    const layer = { weight, bias: undefined, segments: [] };
    for (const bf16 of [false, true]) {
      const times = await timed(device, REPEATS, () => linearGroup(x, [layer], { bf16 }));
      const rate = (2 * rows * columns * depth) / Math.min(...times) / 1e6;
      const key = bf16 ? "bf16Gflops" : "f32Gflops";
      best[key] = Math.max(best[key], rate);
    }
    weight.dispose();
  }
  using x = randomTensor(device, [MEMORY], "x");
  using y = randomTensor(device, [MEMORY], "y");
  // Adding into memory that was read anyway costs no more traffic than is counted; a copy may have to read what it overwrites.
  const add = Math.min(...(await timed(device, REPEATS, () => addInto(y, x))));
  const copy = Math.min(...(await timed(device, REPEATS, () => copyInto(y, x))));
  return { ...best, memoryGbS: Math.max((3 * x.byteLength) / add, (2 * x.byteLength) / copy) / 1e6 };
}
