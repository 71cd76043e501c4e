/** Inputs of checkpointed blocks in the host's memory: the same bits, less memory on the device. */
import { afterEach, describe, expect, it } from "vitest";
import { checkpoint } from "../../src/autograd/checkpoint.js";
import { ActivationOffload } from "../../src/autograd/offload.js";
import { valueAndGrad } from "../../src/autograd/tape.js";
import { packSequences } from "../../src/models/batch.js";
import { weightedSum } from "../../src/ops/elementwise.js";
import { multiply } from "../../src/ops/multiply.js";
import { reshape } from "../../src/ops/reshape.js";
import { ParameterArena } from "../../src/optim/arena.js";
import { type Device, getDevice } from "../../src/tensor/device.js";
import { startMicroStep } from "../../src/tensor/random.js";
import { scope } from "../../src/tensor/scope.js";
import type { Tensor } from "../../src/tensor/tensor.js";
import { cuda } from "../cuda-device.js";
import { gaussian } from "../reference/numeric.js";
import { tinyPeft } from "../train/tiny.js";

const gpu = getDevice(cuda);
const [ROWS, COLUMNS, BLOCKS] = [32, 64, 8];
const BYTES = ROWS * COLUMNS * 4;

afterEach(() => gpu.addon.failAllocation(0));

function makeArena(device: Device): ParameterArena {
  const arena = new ParameterArena(
    [0, 1].map((i) => ({ name: `p${i}`, shape: [ROWS, COLUMNS] })),
    device,
  );
  arena.values.upload(gaussian(arena.values.size, 3).map((x) => 1 + x / 10));
  arena.setTrainable(true);
  return arena;
}

/** A chain of blocks with two inputs each; `lost` reach no loss. */
function pass(arena: ParameterArena, offload: ActivationOffload | undefined, lost = 0): Tensor {
  const [p, q] = [arena.get("p0"), arena.get("p1")];
  const block = (x: Tensor, y: Tensor) => [multiply(multiply(x, p), y), multiply(x, p)];
  return valueAndGrad(() => {
    let [x, y] = [multiply(p, q), multiply(q, q)];
    for (let i = 0; i < BLOCKS; i++) {
      const inputs = [x, y];
      [x, y] = checkpoint((x, y) => block(x!, y!), [x, y], [p], offload) as [Tensor, Tensor];
      for (const input of inputs) input.dispose();
    }
    for (let i = 0; i < lost; i++) checkpoint((x, y) => block(x!, y!), [x, y], [p], offload);
    return weightedSum(reshape(x, ROWS * COLUMNS));
  });
}

const bits = async (t: Tensor) => {
  const { buffer, byteOffset, byteLength } = await t.read();
  return Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength).toString("base64");
};

const memory = async () => {
  await gpu.synchronize();
  const { live, host, tensors } = gpu.memory;
  return { live, host, tensors };
};

async function run(offloads: boolean, lost = 0) {
  const arena = makeArena(gpu);
  const start = gpu.memory;
  gpu.resetPeak();
  const offload = offloads ? new ActivationOffload(gpu) : undefined;
  const loss = pass(arena, offload, lost);
  offload?.[Symbol.dispose]();
  const { peak, hostPeak } = gpu.memory;
  const result = { loss: await bits(loss), gradients: await bits(arena.gradients!) };
  loss.dispose();
  arena.dispose();
  return { ...result, peak: peak - start.live, host: hostPeak - start.host };
}

describe("activation offloading", () => {
  it("has the same bits, with the inputs of two blocks on the device instead of all", async () => {
    const before = await memory();
    const [kept, offloaded] = [await run(false), await run(true)];
    expect(offloaded.loss).toBe(kept.loss);
    expect(offloaded.gradients).toBe(kept.gradients);
    expect(kept.host).toBe(0);
    expect(offloaded.host).toBe(2 * BLOCKS * BYTES);
    expect(kept.peak - offloaded.peak).toBeGreaterThanOrEqual(2 * (BLOCKS - 3) * BYTES);
    expect(await memory()).toEqual(before);
  });

  it("passes over blocks that no gradient reaches", async () => {
    const before = await memory();
    const [kept, offloaded] = [await run(false, 3), await run(true, 3)];
    expect(offloaded.gradients).toBe(kept.gradients);
    expect(await memory()).toEqual(before);
  });

  it("has the same bits in a decoder with dropout", async () => {
    await using peft = await tinyPeft({ loraDropout: 0.2, initLoraWeights: false });
    const { base: model, trainable } = peft;
    const { arena } = trainable;
    arena.setTrainable(true);
    const { device } = model;
    const rows = [
      [3, 1, 4, 1, 5],
      [9, 2, 6],
    ];
    const gradients = async (offload: ActivationOffload | undefined) => {
      arena.zeroGrad();
      startMicroStep(1, 1);
      scope(() => {
        const batch = packSequences(rows, device);
        valueAndGrad(() => {
          const hidden = model.hiddenStates(batch, { training: true, checkpointing: true, offload });
          return weightedSum(reshape(hidden, hidden.size));
        });
      });
      offload?.[Symbol.dispose]();
      return bits(arena.gradients!);
    };
    const before = device.memory;
    const kept = await gradients(undefined);
    expect(await gradients(new ActivationOffload(device))).toBe(kept);
    expect(device.memory).toMatchObject({ live: before.live, host: before.host, tensors: before.tensors });
  });

  it("leaves nothing behind where memory ends, and every slot free", async () => {
    const arena = makeArena(gpu);
    const before = await memory();
    let failed = 0;
    for (let n = 1; ; n += 3) {
      const offload = new ActivationOffload(gpu);
      gpu.addon.failAllocation(n);
      try {
        pass(arena, offload).dispose();
        gpu.addon.failAllocation(0);
        break;
      } catch (error) {
        gpu.addon.failAllocation(0);
        expect(error).toMatchObject({ code: "OUT_OF_MEMORY" });
        failed++;
      } finally {
        offload[Symbol.dispose]();
      }
      expect(await memory()).toEqual(before);
    }
    expect(failed).toBeGreaterThan(15);
    const slots = Array.from({ length: 32 }, () => gpu.takeSlot());
    for (const slot of slots) gpu.giveSlot(slot);
    arena.dispose();
  });
});
