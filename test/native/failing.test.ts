import { rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { addon, cpu, F32, sharedLibrary, thrown, U8, upload } from "./helpers.js";

const library = sharedLibrary("failing.cc");
afterAll(() => rmSync(dirname(library), { recursive: true }));
const device = addon.openPlugin("failing", library);
const gone = { code: "DEVICE", op: "device", message: "[device] the device is gone" };

describe("a device that fails", () => {
  it("reports each failure once, to the next wait, and gives its memory back", async () => {
    expect(addon.openPlugin("failing", library)).toBe(device);
    expect(addon.deviceInfo(device).isa).toBe("failing");
    const t = addon.alloc(device, F32, [4]);
    addon.upload(t, new Float32Array(4));
    await expect(addon.synchronize(device)).rejects.toMatchObject(gone);
    await addon.synchronize(device);
    await expect(addon.read(t)).rejects.toMatchObject(gone);
    addon.kernels.fill(device, t, 1);
    addon.kernels.fill(device, t, 2);
    await expect(addon.synchronize(device)).rejects.toMatchObject(gone);
    await addon.synchronize(cpu);
    addon.free(t);
    expect(addon.memory(device)).toMatchObject({ live: 0, tensors: 0 });
  });

  it("is told apart from one that is lost", async () => {
    const t = addon.alloc(device, F32, [4]);
    addon.kernels.copy(device, t, t);
    await expect(addon.synchronize(device)).rejects.toMatchObject({
      code: "DEVICE_LOST",
      op: "device",
      message: "[device] the device is lost",
    });
    expect(addon.memory(cpu).tensors).toBe(0);
    expect(addon.memory(device).tensors).toBe(1);
    addon.free(t);
  });

  it("takes files by upload: what it fails to take is told at the next wait, what cannot be read by the read itself", async () => {
    const file = join(dirname(library), "file");
    writeFileSync(file, new Uint8Array(16));
    const t = addon.alloc(device, F32, [8]);
    await addon.readFile(t, 0, file, 16, 0);
    await addon.synchronize(device);
    await addon.readFile(t, 0, file, 0, 16);
    await expect(addon.synchronize(device)).rejects.toMatchObject(gone);
    await expect(addon.readFile(t, 0, file, 0, 32)).rejects.toMatchObject({ code: "INVALID", op: "readFile" });
    addon.failAllocation(1);
    const refused = addon.readFile(t, 0, file, 0, 16);
    await expect(refused).rejects.toMatchObject({ code: "OUT_OF_MEMORY", op: "readFile", needed: 16 });
    addon.failAllocation(0);
    await addon.synchronize(device);
    addon.free(t);
    expect(addon.memory(device)).toMatchObject({ live: 0, tensors: 0 });
  });

  it("says at the call what its kernels lack, and what they refuse when asked for scratch", () => {
    const t = addon.alloc(device, F32, [4]);
    expect(thrown(() => addon.kernels.add(device, t, t, t))).toMatchObject({
      code: "UNSUPPORTED",
      op: "add",
      message: '[add] the kernels "failing" of device failing lack this op',
    });
    expect(thrown(() => addon.kernels.linear(device, new Float64Array(10)))).toMatchObject(gone);
    addon.free(t);
  });
});

describe("what is on another device", () => {
  it("is refused: tensors and weights of an op, parts of a weight", () => {
    const here = upload([1, 2, 3, 4], [2, 2]);
    const there = addon.alloc(device, F32, [2, 2]);
    const weight = addon.weightDense(there);
    expect(thrown(() => addon.kernels.add(cpu, here, here, there)).message).toBe(
      "[add] a tensor is on device failing but the op runs on another",
    );
    const group = new Float64Array([here, 0, 0, 0, 0, 0, 0, 0, 0, 1, weight, 0, here, 0, 0, 0]);
    expect(thrown(() => addon.kernels.linear(cpu, group)).message).toBe(
      "[linear] a weight is on device failing but the op runs on another",
    );
    const codes = addon.alloc(device, U8, [2]);
    const absmax = upload([1]);
    expect(thrown(() => addon.weight4bit(codes, absmax, 0, 0, 0, absmax, 2, 2, 64, 0, 0))).toMatchObject({
      code: "INVALID",
      message: "[weight4bit] the tensors of a weight are on different devices",
    });
    addon.freeWeight(weight);
    for (const t of [here, there, codes, absmax]) addon.free(t);
  });
});
