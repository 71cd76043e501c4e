import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { readFloat32 } from "../../src/io/float32.js";
import { openFile, pathInside, readTextFile } from "../../src/io/input.js";
import { openSafetensors } from "../../src/io/safetensors.js";
import { errorOf, safetensorsBytes, tempFolder } from "./files.js";

describe("files", () => {
  it("are absent, also below a file, or cannot be opened", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "a"), "x");
    for (const path of ["b", "a/b"]) expect((await errorOf(openFile(join(folder, path)))).code, path).toBe("NOT_FOUND");
    const error = await errorOf(openFile(join(folder, "x".repeat(300))));
    expect(error).toMatchObject({ code: "INVALID_FILE", message: expect.stringContaining("ENAMETOOLONG") });
    expect((await errorOf(openFile(folder))).message).toContain("is not a regular file");
  });

  it("are texts without their byte order mark", async () => {
    const path = join(tempFolder(), "a");
    writeFileSync(path, "\uFEFFé");
    expect(await readTextFile(path, { bytes: 10, values: 1 })).toBe("é");
  });
});

describe("names", () => {
  it("stay in their folder, links followed, be it the root", async () => {
    const folder = tempFolder();
    mkdirSync(join(folder, "in"));
    writeFileSync(join(folder, "in", "a"), "");
    symlinkSync("a", join(folder, "in", "to-a"));
    symlinkSync(folder, join(folder, "in", "up"));
    symlinkSync("nowhere", join(folder, "in", "dangling"));
    for (const name of ["a", "to-a", "dangling", "absent"])
      expect(await pathInside(join(folder, "in"), name)).toBe(join(folder, "in", name));
    for (const name of ["up", "../a", "/a", ".", "a\0"])
      expect((await errorOf(pathInside(join(folder, "in"), name))).code, name).toBe("INVALID_FILE");
    expect(await pathInside("/", "proc")).toBe("/proc");
  });
});

describe("tensors read as float32", () => {
  it("may be stored in any floating-point dtype, and in no other", async () => {
    const path = join(tempFolder(), "a.safetensors");
    const entry = (dtype: string, begin: number, end: number) => ({ dtype, shape: [1], data_offsets: [begin, end] });
    const header = {
      d: entry("F64", 0, 8),
      f: entry("F32", 8, 12),
      h: entry("F16", 12, 14),
      b: entry("BF16", 14, 16),
      i: entry("U8", 16, 17),
    };
    const data = Buffer.alloc(17);
    data.writeDoubleLE(1.5, 0);
    data.writeFloatLE(1.5, 8);
    data.writeUInt16LE(0x3e00, 12);
    data.writeUInt16LE(0x3fc0, 14);
    writeFileSync(path, safetensorsBytes(header, data));
    const file = await openSafetensors(path);
    try {
      for (const name of ["d", "f", "h", "b"]) expect([...(await readFloat32(file, name))], name).toEqual([1.5]);
      expect(await errorOf(readFloat32(file, "i"))).toMatchObject({
        code: "INVALID_FILE",
        message: expect.stringContaining("'i' is U8"),
      });
      // Cut short while it is open.
      writeFileSync(path, safetensorsBytes(header, data.subarray(0, 4)));
      expect((await errorOf(file.read("d"))).message).toMatch(/ended at byte \d+ while it was read/);
    } finally {
      await file.close();
    }
  });

  it("are no more than a file may list", async () => {
    const path = join(tempFolder(), "a.safetensors");
    const entries = Array.from({ length: 100_002 }, (_, i) => `"${i}":{}`);
    writeFileSync(path, safetensorsBytes(`{${entries.join(",")}}`));
    expect((await errorOf(openSafetensors(path))).message).toMatch(/lists 100002 tensors; at most 100000 can be read/);
  });

  it("are named in short where their header says nonsense", async () => {
    const path = join(tempFolder(), "a.safetensors");
    writeFileSync(path, safetensorsBytes({ a: { dtype: "X".repeat(200), shape: [], data_offsets: [0, 0] } }));
    expect((await errorOf(openSafetensors(path))).message.length).toBeLessThan(400);
  });
});
