/** What a device that works beside the host does: errors that come late, transfers, files through staging memory, failures of the runtime. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it } from "vitest";
import { addonPath } from "../../src/native/load.js";
import { pluginOf } from "../../src/native/plugin.js";
import { NATIVE_DTYPES, type NativeError, type TensorHandle } from "../../src/native/surface.js";
import { addon, Raw, refusal } from "../native/raw.js";

const folder = mkdtempSync(join(tmpdir(), "lowrank-runtime-"));
const raw = new Raw("emu");
const { d, kernels } = raw;
const F32 = NATIVE_DTYPES.indexOf("float32");
const made: TensorHandle[] = [];

const device = (n: number): TensorHandle => keep(addon.alloc(d, F32, [n]));
const host = (n: number): TensorHandle => keep(addon.allocHost(d, F32, [n]));
function keep(t: TensorHandle): TensorHandle {
  made.push(t);
  return t;
}
const floats = async (t: TensorHandle): Promise<number[]> => [...new Float32Array(await addon.read(t))];

afterEach(() => {
  delete process.env.LOWRANK_EMU_FAIL;
  for (const t of made.splice(0)) addon.free(t);
});
afterAll(() => {
  raw.dispose();
  rmSync(folder, { recursive: true });
});

describe("errors that are found after their op has returned", () => {
  it("name the op, the first one wins, and what follows is computed", async () => {
    const [table, y] = [device(6), device(3)];
    addon.upload(table, Float32Array.of(1, 2, 3, 4, 5, 6));
    const rows = keep(addon.view(table, 0, F32, [2, 3]));
    const look = (id: number) =>
      kernels.embedding(d, keep(addon.view(y, 0, F32, [1, 3])), rows, raw.from(Int32Array.of(id), [1]), 1);
    const error = await refusal(raw, () => {
      look(7);
      look(-2);
      kernels.add(d, y, y, table); // refused at once, but later in the stream
    });
    expect(error).toMatchObject({
      code: "INVALID",
      op: "embedding",
      message: expect.stringContaining("ids[0] is 7 but the table has 2 rows"),
    });
    look(1);
    expect(await floats(y)).toEqual([4, 5, 6]);
  });

  it("are kept however many calls lie between", async () => {
    const [rows, y] = [keep(addon.view(device(6), 0, F32, [2, 3])), keep(addon.view(device(3), 0, F32, [1, 3]))];
    const [good, bad] = [0, 9].map((id) => raw.from(Int32Array.of(id), [1])) as [number, number];
    kernels.embedding(d, y, rows, bad, 1);
    for (let i = 0; i < 300; i++) kernels.embedding(d, y, rows, good, 1);
    await expect(addon.synchronize(d)).rejects.toMatchObject({
      code: "INVALID",
      message: expect.stringContaining("ids[0] is 9"),
    });
    await addon.synchronize(d);
  });
});

describe("transfers in the background", () => {
  it("arrive at the wait for their slot, and not before", async () => {
    const [stored, slot, early, late, back] = [host(4), device(4), device(4), device(4), host(4)];
    addon.upload(stored, Float32Array.of(1, 2, 3, 4));
    kernels.fill(d, slot, 0);
    kernels.prefetch(d, 3, slot, stored);
    kernels.copy(d, early, slot);
    kernels.wait(d, 3);
    kernels.copy(d, late, slot);
    kernels.axpy(d, slot, slot, 1);
    kernels.writeBack(d, 3, back, slot);
    kernels.wait(d, 3);
    expect(await floats(early)).toEqual([0, 0, 0, 0]); // a real device may be faster
    expect(await floats(late)).toEqual([1, 2, 3, 4]);
    expect(await floats(back)).toEqual([2, 4, 6, 8]);
  });

  it("are in what is read next, waited for or not", async () => {
    const [from, to] = [device(3), host(3)];
    kernels.fill(d, from, 5);
    kernels.writeBack(d, 0, to, from);
    expect(await floats(to)).toEqual([5, 5, 5]);
  });

  it.each(["emu", "cpu"])("refuse what does not fit, on %s", async (name) => {
    const other = new Raw(name);
    const [a, b] = [other.out([3]), other.out([4])];
    for (const [call, text] of [
      [() => kernels.prefetch(other.d, 0, a, b), "dst has 12 bytes but src has 16"],
      [() => kernels.writeBack(other.d, 32, a, a), "slot 32 does not exist: there are 0 to 31"],
      [() => kernels.wait(other.d, -1), "slot -1 does not exist"],
      [() => kernels.prefetch(other.d, 0, a, 0), "dst and src must be given"],
    ] as const)
      expect(await refusal(other, call)).toMatchObject({ code: "INVALID", message: expect.stringContaining(text) });
    other.dispose();
  });
});

describe("a file for memory that only the device writes", () => {
  it("arrives in pieces", async () => {
    const size = (33 << 20) + 12;
    const bytes = new Uint8Array(size).map((_, i) => (i * 31) ^ (i >> 13));
    writeFileSync(join(folder, "long"), bytes);
    const t = keep(addon.alloc(d, NATIVE_DTYPES.indexOf("uint8"), [size + 8]));
    await addon.readFile(t, 4, join(folder, "long"), 4, size - 4);
    const read = new Uint8Array(await addon.read(t));
    expect(Buffer.compare(read.subarray(4, size), bytes.subarray(4))).toBe(0);
    await expect(addon.readFile(t, 0, join(folder, "long"), 10, size)).rejects.toMatchObject({ code: "INVALID", op: "readFile" });
    await expect(addon.readFile(t, 0, join(folder, "none"), 0, 1)).rejects.toMatchObject({ code: "INVALID", op: "readFile" });
    await addon.readFile(t, 0, join(folder, "long"), 0, 0);
  });
});

// Numbers of cudaError_t, those that cost a device its context among them.
const CODES = [
  1, 2, 3, 4, 9, 46, 98, 100, 101, 200, 209, 214, 220, 226, 400, 500, 700, 701, 702, 709, 710, 714, 715, 716, 717, 718, 719, 720,
  801, 802, 900, 901, 999,
];

describe("failures of the runtime", () => {
  it("become typed errors, whatever their number, and the device goes on", async () => {
    const y = device(8);
    for (const code of CODES) {
      await addon.synchronize(d);
      process.env.LOWRANK_EMU_FAIL = `1:${code}`;
      const error = await refusal(raw, () => kernels.fill(d, y, 1));
      expect(error).toMatchObject({
        code: code === 2 ? "OUT_OF_MEMORY" : "DEVICE",
        op: "fill",
        message: expect.stringContaining(`planted error ${code}`),
      });
      delete process.env.LOWRANK_EMU_FAIL;
    }
    kernels.fill(d, y, 2);
    expect(await floats(y)).toEqual(new Array(8).fill(2));
  });

  it("become typed errors at every call", async () => {
    const work = async (): Promise<void> => {
      const [a, b, c] = [device(5000), device(5000), host(5000)];
      addon.upload(a, new Float32Array(5000).fill(3));
      kernels.add(d, b, a, a);
      kernels.writeBack(d, 1, c, b);
      kernels.wait(d, 1);
      kernels.prefetch(d, 2, a, c);
      kernels.wait(d, 2);
      kernels.embedding(
        d,
        keep(addon.view(b, 0, F32, [1, 5000])),
        keep(addon.view(a, 0, F32, [1, 5000])),
        raw.from(Int32Array.of(0), [1]),
        1,
      );
      await writeThrough(a);
      expect((await floats(b))[7]).toBe(6);
    };
    writeFileSync(join(folder, "short"), new Uint8Array(400));
    const writeThrough = (t: TensorHandle) => addon.readFile(t, 0, join(folder, "short"), 0, 400);
    let failed = 0;
    for (let n = 1; n < 60; n++) {
      await addon.synchronize(d);
      addon.trim(d);
      process.env.LOWRANK_EMU_FAIL = `${n}:719`;
      try {
        await work();
      } catch (error) {
        const { code, message } = error as NativeError;
        if (!message.includes("planted error 719")) throw error;
        expect(code).toBe("DEVICE");
        failed++;
      }
      delete process.env.LOWRANK_EMU_FAIL;
      await addon.synchronize(d).catch(() => {}); // what the failed work left queued
      for (const t of made.splice(0)) addon.free(t);
    }
    expect(failed).toBeGreaterThan(15);
    await work();
  });

  it("that stay are a lost device: everything is refused in one sentence, and the process lives", () => {
    const script = `
      const a = require(${JSON.stringify(addonPath())}), d = a.openPlugin("emu", ${JSON.stringify(pluginOf("emu"))});
      const said = async (call) => { try { await call(); return "nothing"; } catch (e) { return e.code + " " + e.op + " " + /planted error \\d+/.exec(e.message); } };
      (async () => {
        const t = a.alloc(d, 0, [4]);
        a.kernels.fill(d, t, 1);
        await a.read(t);
        process.env.LOWRANK_EMU_FAIL = "1:700:sticky";
        console.log(await said(() => (a.kernels.fill(d, t, 1), a.synchronize(d))));
        console.log(await said(() => a.alloc(d, 0, [1 << 20])));
        console.log(await said(() => a.allocHost(d, 0, [1 << 20])));
        console.log(await said(() => a.read(t)));
        console.log(await said(() => (a.upload(t, new Float32Array(4)), a.synchronize(d))));
        a.free(t);
        a.trim(d);
      })();`;
    const { stdout, stderr, status, signal } = spawnSync(process.execPath, ["-e", script], { encoding: "utf8" });
    expect({ signal, status, stderr }).toEqual({ signal: null, status: 0, stderr: "" });
    expect(stdout.trim().split("\n")).toEqual([
      "DEVICE_LOST fill planted error 700",
      "DEVICE_LOST alloc planted error 700",
      "DEVICE_LOST allocHost planted error 700",
      expect.stringMatching(/^DEVICE_LOST \w+ planted error 700$/),
      expect.stringMatching(/^DEVICE_LOST \w+ planted error 700$/),
    ]);
  });
});
