import { describe, expect, it } from "vitest";
import { addon, addonPath, cpu, F32, readFloats, runChild, thrown, upload } from "./helpers.js";

describe("the stream", () => {
  it("runs everything in the order of the calls", async () => {
    const a = upload([1, 2]);
    const b = addon.alloc(cpu, F32, [2]);
    addon.kernels.prefetch(cpu, 0, b, a);
    addon.upload(a, new Float32Array([3, 4]));
    const first = addon.read(b);
    addon.kernels.prefetch(cpu, 0, b, a);
    const second = addon.read(b);
    expect([...new Float32Array(await first)]).toEqual([1, 2]);
    expect([...new Float32Array(await second)]).toEqual([3, 4]);
    addon.free(a);
    addon.free(b);
  });

  it("takes the uploaded bytes at the call", async () => {
    const data = new Float32Array([1, 2]);
    const t = addon.alloc(cpu, F32, [2]);
    addon.upload(t, data);
    data.fill(9);
    expect(await readFloats(t)).toEqual([1, 2]);
    addon.free(t);
  });

  it("returns from a call before the work is done", async () => {
    const a = addon.alloc(cpu, F32, [1 << 26]);
    const b = addon.alloc(cpu, F32, [1 << 26]);
    const begin = performance.now();
    for (let i = 0; i < 5; i++) addon.kernels.prefetch(cpu, 0, b, a);
    const enqueued = performance.now() - begin;
    await addon.synchronize(cpu);
    expect(enqueued).toBeLessThan((performance.now() - begin) / 4);
    addon.free(a);
    addon.free(b);
    addon.trim(cpu);
  });

  it("gives freed memory to the next tensor without harm to work that is queued", async () => {
    const big = addon.alloc(cpu, F32, [1 << 24]);
    const other = addon.alloc(cpu, F32, [1 << 24]);
    addon.kernels.prefetch(cpu, 0, other, big);
    const results: Promise<number[]>[] = [];
    for (let i = 0; i < 50; i++) {
      const t = upload([i, i]);
      results.push(readFloats(t));
      addon.free(t);
    }
    expect(await Promise.all(results)).toEqual(Array.from({ length: 50 }, (_, i) => [i, i]));
    addon.free(big);
    addon.free(other);
    addon.trim(cpu);
  });

  it("reports the first error of an op at the next wait, once", async () => {
    const a = upload([1, 2]);
    const b = upload([1, 2, 3]);
    addon.kernels.prefetch(cpu, 0, b, a);
    addon.kernels.writeBack(cpu, 0, b, a);
    await expect(addon.synchronize(cpu)).rejects.toMatchObject({ code: "INVALID", op: "prefetch" });
    await addon.synchronize(cpu);
    addon.kernels.writeBack(cpu, 0, a, b);
    await expect(addon.read(a)).rejects.toMatchObject({ code: "INVALID", op: "write_back" });
    expect(await readFloats(a)).toEqual([1, 2]);
    addon.free(a);
    addon.free(b);
  });

  it("enqueues nothing when an argument is wrong", async () => {
    const a = upload([1, 2]);
    const b = upload([3, 4]);
    expect(thrown(() => addon.kernels.prefetch(cpu, 0.5, a, b)).code).toBe("INVALID");
    expect(await readFloats(a)).toEqual([1, 2]);
    addon.free(a);
    addon.free(b);
  });

  it("times each op while profiling", async () => {
    const a = addon.alloc(cpu, F32, [1 << 20]);
    addon.profile(cpu, true);
    for (let i = 0; i < 3; i++) addon.kernels.prefetch(cpu, 0, a, a);
    await addon.synchronize(cpu);
    const times = addon.profile(cpu, false);
    expect(times.prefetch?.calls).toBe(3);
    expect(times.prefetch?.ms).toBeGreaterThan(0);
    addon.kernels.prefetch(cpu, 0, a, a);
    await addon.synchronize(cpu);
    expect(addon.profile(cpu, false)).toEqual({});
    addon.free(a);
  });

  it("rejects a read where the program's own ArrayBuffer is none, or is of another size", async () => {
    for (const [replacement, expected] of [
      ["function () {}", "OUT_OF_MEMORY"],
      ["class extends ArrayBuffer { constructor(n) { super(n + 1) } }", "OUT_OF_MEMORY"],
      ["class extends ArrayBuffer {}", "4"],
    ]) {
      // The addon takes the constructor when it is loaded.
      const script = `globalThis.ArrayBuffer = ${replacement}; const b = { exports: {} };
        process.dlopen(b, ${JSON.stringify(addonPath)});
        const t = b.exports.alloc(d, 0, [1]);
        b.exports.read(t).then((bytes) => bytes.byteLength, (error) => error.code).then((got) => console.log(got));`;
      expect(await runChild(script)).toMatchObject({ code: 0, signal: null, out: expected });
    }
  });

  it("keeps devices apart", async () => {
    const scalar = addon.openDevice("cpu:scalar");
    expect(addon.openDevice("cpu:scalar")).toBe(scalar);
    expect(addon.deviceInfo(scalar).isa).toBe("scalar");
    expect(addon.deviceInfo(addon.openDevice("cpu:scalar:3"))).toMatchObject({ isa: "scalar", threads: 3 });
    const here = upload([1]);
    const there = addon.alloc(scalar, F32, [1]);
    expect(thrown(() => addon.kernels.prefetch(cpu, 0, here, there)).message).toContain("a tensor is on device cpu:scalar");
    addon.free(here);
    addon.free(there);
  });

  it("runs each task of an op once, however many threads share too few cores", async () => {
    const run = async (device: string) => {
      const d = addon.openDevice(device);
      const results: Promise<ArrayBuffer>[] = [];
      for (let i = 0; i < 60; i++) {
        const n = 1 + ((i * 791_911) % 900_000);
        const [x, y] = [addon.alloc(d, F32, [n]), addon.alloc(d, F32, [n])];
        addon.kernels.random(d, x, 0, -1, 1, BigInt(i));
        addon.kernels.copy(d, y, x);
        addon.kernels.axpy(d, y, x, 0.25);
        addon.kernels.add(d, x, x, y);
        results.push(addon.read(x));
        addon.free(x);
        addon.free(y);
      }
      return Promise.all(results);
    };
    const alone = await run("cpu:scalar:1");
    const crowd = await run("cpu:scalar:7");
    expect(crowd.map((b) => Buffer.from(b).compare(Buffer.from(alone[crowd.indexOf(b)] as ArrayBuffer)))).toEqual(
      alone.map(() => 0),
    );
  });
});
