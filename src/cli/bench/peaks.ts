import { addInto, copyInto, fill } from "../../ops/copy.js";
import { weightedSum } from "../../ops/elementwise.js";
import { linearGroup } from "../../ops/linear.js";
import { fillRandom } from "../../ops/random.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { randomKey } from "../../tensor/random.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";

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

/** Times `body` on an idle stream, milliseconds. */
async function timed(device: Device, body: () => unknown): Promise<number> {
  await device.synchronize();
  const begun = performance.now();
  scope(() => void body());
  await device.synchronize();
  return performance.now() - begun;
}

/** A float32 tensor of standard normal values. */
export function randomTensor(device: Device, shape: readonly number[], name: string): Tensor {
  const tensor = Tensor.empty(shape, { device });
  fillRandom(tensor, { normal: { mean: 0, std: 1 } }, randomKey(1, name));
  return tensor;
}

/** What is read and written: one array; one, into another; two, into one of them; none, into one. */
export type Traffic = "read" | "copy" | "update" | "write";
export const TRAFFICS: readonly Traffic[] = ["read", "copy", "update", "write"];

/** The best of some calls of a probe: what this machine reaches now. Where others use it too, shares may be above one. */
export async function best(rate: () => Promise<number>): Promise<number> {
  let most = 0;
  for (let i = 0; i < REPEATS; i++) most = Math.max(most, await rate());
  return most;
}

/** Products in float32, or with operands in bfloat16, on all threads at once, GFLOP/s, measured again by each call. */
export const productRate = (device: Device, bf16: boolean): Promise<number> =>
  device.info.separate ? denseProducts(device, bf16) : bareInstruction(device, bf16);

/** Arrays of 256 MiB to measure memory with. */
export class MemoryProbe implements Disposable {
  readonly #device: Device;
  readonly #arrays: readonly [Tensor, Tensor];

  constructor(device: Device) {
    this.#device = device;
    this.#arrays = [randomTensor(device, [MEMORY], "x"), randomTensor(device, [MEMORY], "y")];
  }

  /** GB/s, what is read and what is written counted together, measured again by each call. */
  async rate(traffic: Traffic): Promise<number> {
    const [x, y] = this.#arrays;
    // What is added to was read anyway; a copy may have to read what it overwrites.
    const [passes, body] = {
      read: [1, () => weightedSum(x)],
      copy: [2, () => copyInto(y, x)],
      update: [3, () => addInto(y, x)],
      write: [1, () => fill(y, 1)], // zeros are written at another rate
    }[traffic] as [number, () => unknown];
    return (passes * x.byteLength) / (await timed(this.#device, body)) / 1e6;
  }

  [Symbol.dispose](): void {
    for (const array of this.#arrays) array.dispose();
  }
}

/** The bare instruction of the products. */
async function bareInstruction(device: Device, bf16: boolean): Promise<number> {
  const { kernels, number, info } = device;
  using done = Tensor.empty([info.threads], { device });
  const ms = await timed(device, () => kernels.multiplyAdds(number, done.handle, bf16 ? 1 : 0, MULTIPLY_ADDS));
  const millions = (await done.readFloat32()).reduce((a, b) => a + b);
  return (2 * millions) / ms; // millions of operations a millisecond
}

/** The best rate of the package's own dense product: a GPU's table has no loop of the bare instruction. */
async function denseProducts(device: Device, bf16: boolean): Promise<number> {
  let best = 0;
  for (const [rows, columns, depth] of PRODUCTS) {
    using x = randomTensor(device, [rows, depth], "x");
    const weight = Weight.dense(randomTensor(device, [columns, depth], "w"));
    const layer = { weight, bias: undefined, segments: [] };
    const ms = await timed(device, () => linearGroup(x, [layer], { bf16 }));
    best = Math.max(best, (2 * rows * columns * depth) / ms / 1e6);
    weight.dispose();
  }
  return best;
}
