import { addInto, copyInto } from "../../ops/copy.js";
import { linearGroup } from "../../ops/linear.js";
import { fillRandom } from "../../ops/random.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";

export interface Peaks {
  /** Products in float32, and with operands in bfloat16. */
  f32Gflops: number;
  bf16Gflops: number;
  /** Memory read and written, counted together. */
  memoryGbS: number;
}

/** Millions of multiply-adds a thread, a few milliseconds. */
const MULTIPLY_ADDS = 400;
/** [rows, columns, depth] of the products that a GPU's peak is taken from: the best of them counts. */
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
 * What this machine reaches now: the rate of the bare instruction of its products in float32 and with operands in bfloat16, on all threads
 * at once, and of adding or copying 256 MiB. A machine that others use too may give shares above one.
 */
export async function measurePeaks(device: Device): Promise<Peaks> {
  const rate = device.info.separate ? productRate : instructionRate;
  const [f32Gflops, bf16Gflops] = [await rate(device, false), await rate(device, true)];
  using x = randomTensor(device, [MEMORY], "x");
  using y = randomTensor(device, [MEMORY], "y");
  // Adding into memory that was read anyway costs no more traffic than is counted; a copy may have to read what it overwrites.
  const add = Math.min(...(await timed(device, REPEATS, () => addInto(y, x))));
  const copy = Math.min(...(await timed(device, REPEATS, () => copyInto(y, x))));
  return { f32Gflops, bf16Gflops, memoryGbS: Math.max((3 * x.byteLength) / add, (2 * x.byteLength) / copy) / 1e6 };
}

async function instructionRate(device: Device, bf16: boolean): Promise<number> {
  const { kernels, number, info } = device;
  using done = Tensor.empty([info.threads], { device });
  const run = () => kernels.multiplyAdds(number, done.handle, bf16 ? 1 : 0, MULTIPLY_ADDS);
  const times = await timed(device, REPEATS, run);
  const millions = (await done.readFloat32()).reduce((a, b) => a + b);
  return (2 * millions) / Math.min(...times); // millions of operations a millisecond
}

/** The best rate of the package's own dense product: a GPU's table has no loop of the bare instruction. */
async function productRate(device: Device, bf16: boolean): Promise<number> {
  let best = 0;
  for (const [rows, columns, depth] of PRODUCTS) {
    using x = randomTensor(device, [rows, depth], "x");
    const weight = Weight.dense(randomTensor(device, [columns, depth], "w"));
    const layer = { weight, bias: undefined, segments: [] };
    const times = await timed(device, REPEATS, () => linearGroup(x, [layer], { bf16 }));
    best = Math.max(best, (2 * rows * columns * depth) / Math.min(...times) / 1e6);
    weight.dispose();
  }
  return best;
}
