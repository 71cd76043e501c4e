import { expect } from "vitest";
import type { LowrankError } from "../../src/errors.js";
import { getDevice } from "../../src/tensor/device.js";
import { Tensor } from "../../src/tensor/tensor.js";

/** Whether an allocation was still going to fail: what ran before asked for fewer than that. Switches it off. */
export function stillWaiting(n: number): boolean {
  const { addon } = getDevice();
  try {
    for (let i = 0; i < n; i++) Tensor.empty([1]).dispose();
    return false;
  } catch {
    return true;
  } finally {
    addon.failAllocation(0);
  }
}

/**
 * Runs `body` again and again while its first, second, third … allocation fails, until none does. Each failure must be OUT_OF_MEMORY with
 * the bytes needed and free and leave memory and `state` as they were; in the end, on the same objects, `body` gives what it gave before any
 * failure. Returns how many allocations failed.
 */
export async function failsAtEveryAllocation(
  body: () => Promise<unknown>,
  state: () => Promise<unknown> = async () => 0,
): Promise<number> {
  const device = getDevice();
  const memory = async () => {
    await device.synchronize();
    const { live, tensors } = device.memory;
    return { live, tensors };
  };
  const expected = await body();
  const before = await memory();
  for (let n = 1; ; n++) {
    const stateBefore = await state();
    let error: LowrankError | undefined;
    let result: unknown;
    device.addon.failAllocation(n);
    try {
      result = await body();
    } catch (caught) {
      error = caught as LowrankError;
    }
    const waiting = stillWaiting(n);
    if (error) {
      expect(error, String(error.stack)).toMatchObject({ code: "OUT_OF_MEMORY" });
      expect(error.details).toMatchObject({ needed: expect.any(Number), free: expect.any(Number) });
      expect(error.details.needed).toBeGreaterThan(0);
      expect(await state(), `allocation ${n}`).toEqual(stateBefore);
      expect(await memory(), `allocation ${n}: ${error.stack}`).toEqual(before);
      continue;
    }
    expect(waiting, `the failure of allocation ${n} was swallowed`).toBe(true);
    expect(result).toEqual(expected);
    expect(await memory()).toEqual(before);
    return n - 1;
  }
}
