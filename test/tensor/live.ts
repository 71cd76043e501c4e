import { expect } from "vitest";
import { getDevice } from "../../src/tensor/device.js";

/** Runs `body` and fails when it leaves a tensor or a byte behind. */
export async function leavesNothing(body: () => Promise<void> | void): Promise<void> {
  const device = getDevice();
  const before = device.memory;
  await body();
  await device.synchronize();
  const after = device.memory;
  expect({ live: after.live, tensors: after.tensors }).toEqual({ live: before.live, tensors: before.tensors });
}

/** The code of the LowrankError that `body` throws. */
export function codeOf(body: () => unknown): unknown {
  try {
    body();
  } catch (error) {
    return (error as { code?: unknown }).code;
  }
  return "nothing was thrown";
}
