import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { addon, cpu, thrown, U8 } from "./helpers.js";

const folder = mkdtempSync(join(tmpdir(), "lowrank-"));
afterAll(() => rmSync(folder, { recursive: true }));
const bytes = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 31 + (i >> 8)) & 255);
const file = join(folder, "bytes — ü.bin");
writeFileSync(file, bytes);

describe("readFile", () => {
  it("reads parts of a file into parts of tensors, many at once", async () => {
    const t = addon.alloc(cpu, U8, [bytes.length]);
    const parts = Array.from({ length: 100 }, (_, i) => addon.readFile(t, i * 1000, file, (99 - i) * 1000, 1000));
    await Promise.all(parts);
    const got = new Uint8Array(await addon.read(t));
    for (let i = 0; i < 100; i++) {
      expect(got.slice(i * 1000, i * 1000 + 1000)).toEqual(bytes.slice((99 - i) * 1000, (100 - i) * 1000));
    }
    addon.free(t);
  });

  it("keeps the memory until it is done, though the tensor is freed at once", async () => {
    const before = addon.memory(cpu).live;
    const reads: Promise<void>[] = [];
    for (let i = 0; i < 20; i++) {
      const t = addon.alloc(cpu, U8, [bytes.length]);
      reads.push(addon.readFile(t, 0, file, 0, bytes.length));
      addon.free(t);
    }
    await Promise.all(reads);
    expect(addon.memory(cpu).live).toBe(before);
  });

  it("opens no file on a dry device, but refuses what would not fit", async () => {
    const dry = addon.openDevice("dry:cpu");
    const t = addon.alloc(dry, U8, [100]);
    await addon.readFile(t, 0, join(folder, "no such file"), 0, 100);
    expect(thrown(() => addon.readFile(t, 1, file, 0, 100))).toMatchObject({ code: "INVALID" });
    addon.free(t);
  });

  it("comes after queued work on the same memory", async () => {
    const old = addon.alloc(cpu, U8, [64 << 20]);
    const other = addon.alloc(cpu, U8, [64 << 20]);
    addon.upload(old, new Uint8Array(64 << 20).fill(1));
    addon.kernels.prefetch(cpu, 0, other, old);
    const copy = addon.read(other);
    addon.free(old);
    const next = addon.alloc(cpu, U8, [64 << 20]); // the same block
    await addon.readFile(next, 0, file, 0, bytes.length);
    expect(new Uint8Array(await copy).subarray(0, bytes.length).every((x) => x === 1)).toBe(true);
    addon.free(next);
    addon.free(other);
    addon.trim(cpu);
  });

  it("rejects with a sentence when the file is absent, too short or a folder", async () => {
    const t = addon.alloc(cpu, U8, [100]);
    const missing = join(folder, "missing");
    await expect(addon.readFile(t, 0, missing, 0, 10)).rejects.toMatchObject({
      code: "INVALID",
      op: "readFile",
      message: `[readFile] cannot open ${missing}: No such file or directory`,
    });
    await expect(addon.readFile(t, 0, file, bytes.length - 5, 10)).rejects.toThrow("ends at byte 100000, expected 100005");
    await expect(addon.readFile(t, 0, folder, 0, 10)).rejects.toThrow(`${folder} is not a regular file`);
    expect(thrown(() => void addon.readFile(t, 95, file, 0, 10)).code).toBe("INVALID");
    expect(thrown(() => void addon.readFile(t, 0, file, -1, 10)).code).toBe("INVALID");
    await addon.readFile(t, 0, file, bytes.length, 0);
    addon.free(t);
  });
});
