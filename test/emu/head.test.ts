/** The head on the emulated device where the conformance suite does not lead: products in bfloat16. */
import { describe, expect, it } from "vitest";
import { cuda } from "../cuda-device.js";
import { addon, sameBits, withRaw } from "../native/raw.js";
import { bfloat16Bits, fromBfloat16, randomWeight } from "../native/weights.js";
import { tokenLogprob } from "../reference/head.js";
import { matrix } from "../reference/linear.js";
import { gaussian, relativeError } from "../reference/numeric.js";

const options = { softcap: 4, logitScale: 0.5, smoothing: 0.2, zLoss: 1e-2 };

/** Value, dxUnit, dx and dweight of one call with operands rounded to bfloat16. */
function run(device: string, t: number, k: number, v: number, kind: "bfloat16" | "4bit rounded" | "float32") {
  return withRaw(device, async (raw) => {
    const x = gaussian(t * k, 1).map((value) => fromBfloat16(bfloat16Bits(value)));
    const w = randomWeight(raw, kind, v, k, 2);
    const labels = Int32Array.from({ length: t }, (_, i) => (i % 3 === 2 ? -100 : (7 * i) % v));
    const out = {
      value: raw.out([t]),
      unit: raw.out([t, k]),
      dx: raw.out([t, k]),
      dweight: raw.from(gaussian(v * k, 3), [v, k]),
    };
    const o = options;
    const words = [out.value, 0, 0, out.unit, raw.from(x, [t, k]), w.handle, raw.from(labels, [t])];
    words.push(o.softcap, o.logitScale, o.smoothing, o.zLoss, 1, raw.from(gaussian(t, 4), [t]), 0, out.dx, out.dweight);
    raw.kernels.tokenLogprob(raw.d, Float64Array.from(words));
    raw.kernels.tokenLogprobGrad(raw.d, Float64Array.from(words));
    const expected = tokenLogprob(matrix(t, k, x), w.values, labels, options).value;
    const [value, unit, dx, dweight] = await Promise.all([out.value, out.unit, out.dx, out.dweight].map((h) => raw.f32(h)));
    addon.freeWeight(w.handle);
    return { expected, results: [value, unit, dx, dweight] as Float32Array[] };
  });
}

describe("the head in bfloat16 on emu", () => {
  it.each([
    ["bfloat16", 21, 64, 136],
    ["4bit rounded", 20, 64, 70],
    ["float32", 9, 33, 41],
  ] as const)("equals float64 where operands are exact, and the CPU's gradients: %s weight", async (kind, t, k, v) => {
    const [emu, cpu] = await Promise.all([cuda, "cpu"].map((device) => run(device, t, k, v, kind)));
    if (kind !== "float32") expect(relativeError(emu!.results[0]!, emu!.expected)).toBeLessThan(2e-6);
    // A gradient between two bfloat16 may round to either.
    for (const [i, result] of emu!.results.entries()) expect(relativeError(result, cpu!.results[i]!)).toBeLessThan(2e-3);
  });

  it("gives the same bits every time", async () => {
    const [a, b] = await Promise.all([1, 2].map(() => run(cuda, 21, 24, 40, "bfloat16")));
    expect(sameBits(a!.results, b!.results)).toBe(true);
  });
});
