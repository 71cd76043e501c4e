/** What only the emulated device can show: vector paths, the tensor-core linear, and how broken rules and missing things reach JavaScript. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { pluginOf } from "../../src/native/load.js";
import { getDevice } from "../../src/tensor/device.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { addon, Raw, refusal, sameBits } from "../native/raw.js";
import { bfloat16Bits, fromBfloat16 } from "../native/weights.js";
import { addProduct, matrix, transpose } from "../reference/linear.js";
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

describe("linear on tensor cores", () => {
  it.each([
    [1, 1, 1],
    [3, 65, 7],
    [64, 64, 32],
    [65, 130, 96],
    [127, 70, 136],
    [130, 33, 200],
  ])("%i rows, %i outputs, %i inputs: copies in the background and plain ones", async (rows, n, k) => {
    const x = gaussian(rows * k, 1).map((v) => fromBfloat16(bfloat16Bits(v)));
    const w = Uint16Array.from(gaussian(n * k, 2), bfloat16Bits);
    const bias = gaussian(n, 3);
    const biased = matrix(
      rows,
      n,
      Float64Array.from({ length: rows * n }, (_, i) => bias[i % n]!),
    );
    const expected = addProduct(biased, matrix(rows, k, x), transpose(matrix(n, k, Array.from(w, fromBfloat16)))).at;
    for (const guard of [64, 72])
      await withGuard(guard, async (raw) => {
        const weight = addon.weightDense(raw.from(w, [n, k], "bfloat16"));
        const y = raw.out([rows, n]);
        raw.kernels.linear(
          raw.d,
          Float64Array.of(raw.from(x, [rows, k]), 0, 0, 1, 0, 0, 0, 1, weight, raw.from(bias, [n]), y, 0, 0, 0),
        );
        // Products of bf16 values are exact in float32: what is left is the order of float32 sums.
        expect(relativeError(await raw.f32(y), expected)).toBeLessThan(1e-6);
        addon.freeWeight(weight);
      });
  });

  it("says what it does not compute yet", async () => {
    await withGuard(64, async (raw) => {
      const weight = addon.weightDense(raw.out([2, 2]));
      const call = (math: number) => () =>
        raw.kernels.linear(raw.d, Float64Array.of(raw.out([2, 2]), 0, 0, math, 0, 0, 0, 1, weight, 0, raw.out([2, 2]), 0, 0, 0));
      expect(await refusal(raw, call(0))).toMatchObject({
        code: "UNSUPPORTED",
        op: "linear",
        message: expect.stringContaining("float32 products"),
      });
      expect((await refusal(raw, call(1))).message).toContain("weights that are not dense bfloat16");
    });
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

  it("names the op that it lacks", () => {
    const raw = new Raw("emu");
    const t = raw.out([1]);
    expect(() => raw.kernels.linearDw(raw.d, t, 0, t, t, 0)).toThrow('the kernels "emu" of device emu lack this op');
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
