import { describe, expect, it } from "vitest";
import { addon, cpu, F32, runChild, thrown } from "./helpers.js";

describe("memory", () => {
  it("is reused exactly, so that live, peak and pool repeat from step to step", () => {
    addon.trim(cpu);
    const step = () => {
      addon.resetPeak(cpu);
      const tensors = [100, 5000, 70_000, 1 << 20].map((n) => addon.alloc(cpu, F32, [n]));
      for (const t of tensors) {
        addon.free(addon.alloc(cpu, F32, [3000]));
        addon.free(t);
      }
      return addon.memory(cpu);
    };
    const first = step();
    for (let i = 0; i < 5; i++) expect(step()).toEqual(first);
    expect(first.peak - first.live).toBe(4 * (100 + 5000 + 70_000 + (1 << 20) + 3000));
    expect(first.pooled).toBeGreaterThan(0);
    addon.trim(cpu);
    expect(addon.memory(cpu).pooled).toBe(0);
  });

  it("does not pile up in the pool when sizes change all the time", () => {
    addon.trim(cpu);
    let most = 0;
    for (let mib = 8; mib < 200; mib += 3) {
      addon.free(addon.alloc(cpu, F32, [mib << 18]));
      most = Math.max(most, addon.memory(cpu).pooled);
    }
    expect(most).toBeLessThan((200 * 1.25 + 33) * 2 ** 20);
    addon.trim(cpu);
  });

  it("that cannot be had is OUT_OF_MEMORY with bytes, and the next allocation works", () => {
    const error = thrown(() => addon.alloc(cpu, F32, [2 ** 40]));
    expect(error).toMatchObject({ code: "OUT_OF_MEMORY", op: "alloc", needed: 2 ** 42 });
    expect(error.free).toBeGreaterThan(0);
    addon.free(addon.alloc(cpu, F32, [10]));
  });

  it("fails at the allocation that a test asks for", () => {
    const before = addon.memory(cpu);
    addon.failAllocation(2);
    const t = addon.alloc(cpu, F32, [4]);
    expect(thrown(() => addon.alloc(cpu, F32, [4])).code).toBe("OUT_OF_MEMORY");
    addon.free(addon.alloc(cpu, F32, [4]));
    addon.free(t);
    addon.failAllocation(1);
    addon.failAllocation(0);
    addon.free(addon.alloc(cpu, F32, [4]));
    expect(addon.memory(cpu).live).toBe(before.live);
  });

  it("of the host for transfers is counted apart, and its cache goes with the device's", () => {
    addon.trim(cpu);
    addon.resetPeak(cpu);
    const before = addon.memory(cpu);
    const used = { ...before, host: before.host + 4000, hostPeak: before.host + 4000, tensors: before.tensors + 1 };
    const t = addon.allocHost(cpu, F32, [1000]);
    expect(addon.memory(cpu)).toEqual(used);
    const view = addon.view(t, 0, F32, [10]);
    addon.free(t);
    expect(addon.memory(cpu)).toEqual(used);
    addon.free(view);
    const { pooled, ...after } = addon.memory(cpu);
    expect({ ...after, pooled: 0 }).toEqual({ ...before, hostPeak: used.hostPeak });
    expect(pooled).toBeGreaterThanOrEqual(4000);
    addon.trim(cpu);
    addon.resetPeak(cpu);
    expect(addon.memory(cpu)).toEqual(before);
  });

  it("stays under LOWRANK_MEMORY_LIMIT, giving up its cache first", async () => {
    const child = await runChild(
      `const out = [];
       const big = a.alloc(d, 4, [40 << 20]); a.free(big);            // cached
       const next = a.alloc(d, 4, [50 << 20]); out.push(a.memory(d)); // only fits without the cache
       try { a.alloc(d, 4, [20 << 20]) } catch (e) { out.push({ code: e.code, needed: e.needed, free: e.free }) }
       a.free(next);
       a.free(a.alloc(d, 4, [20 << 20]));
       console.log(JSON.stringify(out));`,
      { LOWRANK_MEMORY_LIMIT: "64m" },
    );
    expect(child.err).toBe("");
    expect(JSON.parse(child.out)).toMatchObject([
      { live: 50 << 20, peak: 50 << 20, host: 0, pooled: 0, tensors: 1 },
      { code: "OUT_OF_MEMORY", needed: 20 << 20, free: 14 << 20 },
    ]);
    expect((await runChild("", { LOWRANK_MEMORY_LIMIT: "lots" })).err).toContain(
      "LOWRANK_MEMORY_LIMIT must be a number of bytes",
    );
  });
});
