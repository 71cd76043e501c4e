import { describe, expect, it } from "vitest";
import { addon, cpu, F16, F32, I32, readFloats, thrown, U8, upload } from "./helpers.js";

describe("handles", () => {
  it("are numbers, never 0, and never the same twice", () => {
    const seen = new Set<number>();
    for (let i = 0; i < 1000; i++) {
      const t = addon.alloc(cpu, F32, [1]);
      expect(Number.isSafeInteger(t) && t > 0 && !seen.has(t)).toBe(true);
      seen.add(t);
      addon.free(t);
    }
  });

  it("are DISPOSED after free, whatever takes their slot", () => {
    const old = upload([1]);
    addon.free(old);
    const next = upload([2]);
    for (const use of [() => addon.free(old), () => addon.upload(old, new Float32Array(1)), () => addon.view(old, 0, F32, [1])]) {
      expect(thrown(use).code).toBe("DISPOSED");
    }
    expect(thrown(() => addon.kernels.prefetch(cpu, 0, next, old)).code).toBe("DISPOSED");
    addon.free(next);
  });

  it("of a weight are not those of a tensor, nor the reverse", () => {
    const t = upload([1, 2, 3, 4], [2, 2]);
    const w = addon.weightDense(t);
    expect(thrown(() => addon.free(w))).toMatchObject({ code: "INVALID", op: "free" });
    expect(thrown(() => addon.freeWeight(t))).toMatchObject({ code: "INVALID", op: "freeWeight" });
    addon.freeWeight(w);
    expect(thrown(() => addon.freeWeight(w)).code).toBe("DISPOSED");
    addon.free(t);
  });

  it("that are no handles are INVALID", () => {
    for (const bad of [0, -1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 1e300, 2 ** 53, 12345678901]) {
      expect(["INVALID", "DISPOSED"]).toContain(thrown(() => addon.free(bad)).code);
    }
    for (const bad of ["1", undefined, null, {}, 1n]) expect(thrown(() => addon.free(bad as never)).code).toBe("INVALID");
  });

  it("are counted, with their bytes", () => {
    const before = addon.memory(cpu);
    const made = [
      addon.alloc(cpu, F32, [3, 5]),
      addon.alloc(cpu, F16, [7]),
      addon.alloc(cpu, U8, []),
      addon.alloc(cpu, I32, [0, 4]),
    ];
    const during = addon.memory(cpu);
    expect(during.live - before.live).toBe(60 + 14 + 1);
    expect(during.tensors - before.tensors).toBe(4);
    made.forEach((t) => {
      addon.free(t);
    });
    expect(addon.memory(cpu)).toMatchObject({ live: before.live, tensors: before.tensors });
  });
});

describe("views", () => {
  it("share bytes and keep the storage alive", async () => {
    const before = addon.memory(cpu).live;
    const t = upload([1, 2, 3, 4, 5, 6], [2, 3]);
    const row = addon.view(t, 12, F32, [3]);
    const inner = addon.view(row, 4, F32, [2]);
    addon.free(t);
    addon.free(row);
    addon.upload(inner, new Float32Array([50, 60]));
    expect(await readFloats(inner)).toEqual([50, 60]);
    expect(addon.memory(cpu).live - before).toBe(24);
    addon.free(inner);
    expect(addon.memory(cpu).live).toBe(before);
  });

  it("stay inside their tensor and on its elements", () => {
    const t = upload([1, 2, 3, 4]);
    const view = addon.view(t, 8, F32, [2]);
    for (const bad of [
      () => addon.view(t, 0, F32, [5]),
      () => addon.view(t, 16, F32, [1]),
      () => addon.view(t, 2, F32, [1]),
      () => addon.view(t, -4, F32, [1]),
      () => addon.view(view, 0, F32, [4]),
      () => addon.view(t, 0, U8, [2 ** 40, 2 ** 40]),
    ]) {
      expect(thrown(bad)).toMatchObject({ code: "INVALID", op: "view" });
    }
    addon.free(view);
    addon.free(t);
  });

  it("keep a weight's storage alive as well", () => {
    const before = addon.memory(cpu).live;
    const t = upload([1, 2, 3, 4], [2, 2]);
    const w = addon.weightDense(t);
    addon.free(t);
    expect(addon.memory(cpu).live - before).toBe(16);
    addon.freeWeight(w);
    expect(addon.memory(cpu).live).toBe(before);
  });
});
