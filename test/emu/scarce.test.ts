/** The kernels' host code finds no memory for what it keeps: a typed error at every allocation, and the device goes on. */
import { afterEach, describe, expect, it } from "vitest";
import type { NativeError } from "../../src/native/surface.js";
import { KERNELS } from "../native/misuse/recipes.js";
import { World } from "../native/misuse/world.js";
import { addon, Raw } from "../native/raw.js";

// AddressSanitizer's own `operator new` comes first.
const sanitized = (process.env.LD_PRELOAD ?? "").includes("libasan");
const raw = new Raw("emu");
const { d } = raw;
afterEach(() => {
  delete process.env.LOWRANK_EMU_FAIL;
});

/** The error of a call or of the stream after it. */
async function errorOf(body: () => void): Promise<NativeError | undefined> {
  try {
    body();
  } catch (error) {
    return error as NativeError;
  }
  return addon.synchronize(d).then(
    () => undefined,
    (error) => error as NativeError,
  );
}

/** These only call the runtime, or are refused: CUDA's table has no loop of the bare instruction. */
const PLAIN = ["prefetch", "writeBack", "wait", "multiplyAdds"];

describe.skipIf(sanitized)("`operator new` in the CUDA kernels' host code", () => {
  it.each(Object.keys(KERNELS))("of %s may fail anywhere", async (name) => {
    const kernel = (addon.kernels as unknown as Record<string, (...args: unknown[]) => void>)[name]!;
    let failed = 0;
    for (let seed = 1; seed <= 8; seed++)
      for (let n = 1; ; n++) {
        const w = new World(addon, d, seed);
        const args = KERNELS[name]!(w);
        await addon.synchronize(d);
        process.env.LOWRANK_EMU_FAIL = `${n}:new`;
        const error = await errorOf(() => kernel(d, ...args));
        delete process.env.LOWRANK_EMU_FAIL;
        await addon.synchronize(d);
        w.dispose();
        if (error?.code !== "OUT_OF_MEMORY") break; // beyond the last; or the recipe's own mistake, INVALID
        expect(error.message).toMatch(/the host has no memory/);
        failed++;
      }
    // Each launch, and what is planned for it.
    expect(failed > 0).toBe(!PLAIN.includes(name));
    const t = raw.out([3]);
    addon.kernels.fill(d, t, 2);
    expect([...(await raw.f32(t))]).toEqual([2, 2, 2]);
  });
});
