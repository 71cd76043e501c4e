/** What only the emulated device can show: vector paths, and how broken rules and missing things reach JavaScript. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { pluginOf } from "../../src/native/plugin.js";
import { getDevice } from "../../src/tensor/device.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { Raw, sameBits } from "../native/raw.js";
import { gaussian, relativeError } from "../reference/numeric.js";

const folder = mkdtempSync(join(tmpdir(), "lowrank-emu-"));
afterAll(() => rmSync(folder, { recursive: true }));

async function withGuard(guard: number, body: (raw: Raw) => Promise<void>): Promise<void> {
  const raw = new Raw("emu", undefined, guard);
  try {
    await body(raw);
  } finally {
    raw.dispose();
  }
}

describe("aligned tensors", () => {
  it.each([4, 132, 40000])("take the vector path of add and axpy with the same result, %i elements", async (n) => {
    const [a, b] = [gaussian(n, 1), gaussian(n, 2)] as const;
    const results: Uint8Array[][] = [];
    for (const guard of [64, 72])
      await withGuard(guard, async (raw) => {
        const [sum, y, x] = [raw.out([n]), raw.from(a, [n]), raw.from(b, [n])];
        raw.kernels.add(raw.d, sum, raw.from(a, [n]), x);
        raw.kernels.axpy(raw.d, y, x, -0.5);
        const expected = Float64Array.from(a, (v, i) => v - 0.5 * b[i]!);
        expect(relativeError(await raw.f32(y), expected)).toBeLessThan(2e-7);
        results.push([await raw.bytes(sum), await raw.bytes(y)]);
      });
    expect(sameBits(results[0]!, results[1])).toBe(true);
  });
});

describe("the device emu", () => {
  it("is a device like others: tensors in and out", async () => {
    const device = getDevice("emu");
    expect(device.info).toMatchObject({ isa: "emu", bf16: true });
    const t = Tensor.from([1, 2, 3], [3], { device });
    expect([...(await t.readFloat32())]).toEqual([1, 2, 3]);
    t.dispose();
  });

  /** What opening a plugin says in a process of its own: a device once opened stays. */
  function opening(path: string, env: Record<string, string> = {}): string {
    const addonPath = (createRequire(import.meta.url)("node-gyp-build") as { path(folder: string): string }).path(
      join(import.meta.dirname, "../.."),
    );
    const script = `try { require(${JSON.stringify(addonPath)}).openPlugin("emu", ${JSON.stringify(path)}); console.log("opened"); }
      catch (error) { console.log(error.code + ": " + error.message); }`;
    return spawnSync(process.execPath, ["-e", script], { encoding: "utf8", env: { ...process.env, ...env } }).stdout.trim();
  }

  it("is refused with a reason when its file is missing, damaged or no plugin", () => {
    const damaged = join(folder, "damaged.so");
    writeFileSync(damaged, "not a library");
    expect(opening(pluginOf("emu")!)).toBe("opened");
    expect(opening(join(folder, "nothing.so"))).toMatch(/^DEVICE: .*the plugin of "emu" cannot be loaded: .*nothing\.so/);
    expect(opening(damaged)).toMatch(/^DEVICE: .*the plugin of "emu" cannot be loaded: .*damaged\.so/);
    expect(opening("libm.so.6")).toMatch(/^DEVICE: .*lr_backend_open/);
  });

  it("refuses an order of threads that does not exist", () => {
    const path = pluginOf("emu")!;
    expect(opening(path, { LOWRANK_EMU_ORDER: "shuffled:7:3" })).toBe("opened");
    expect(opening(path, { LOWRANK_EMU_ORDER: "sideways" })).toMatch(/^DEVICE: .*LOWRANK_EMU_ORDER is "sideways"/);
  });
});
