import { describe, expect, it } from "vitest";
import { CODE_BOOKS, DYNAMIC_SIGNED, dynamicMap, type QuantType } from "../../src/quant/codes.js";
import { FourBitBuilder, Weight } from "../../src/quant/weight.js";
import { getDevice } from "../../src/tensor/device.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { gaussian } from "../reference/numeric.js";
import { codeOf, leavesNothing } from "../tensor/live.js";

const device = getDevice();

describe("code books", () => {
  it("have 16 and 256 values, ascending where they must", () => {
    expect([...CODE_BOOKS.nf4].sort((a, b) => a - b)).toEqual([...CODE_BOOKS.nf4]);
    expect(CODE_BOOKS.fp4.length).toBe(16);
    for (const map of [DYNAMIC_SIGNED, dynamicMap(false)]) {
      expect(map.length).toBe(256);
      expect([...map].sort((a, b) => a - b)).toEqual([...map]);
      expect(new Set(map).size).toBe(256);
    }
  });
});

describe("a 4-bit weight", () => {
  for (const quantType of ["nf4", "fp4"] as QuantType[]) {
    it(`${quantType}: every value is its block's absmax times the nearest code`, () =>
      leavesNothing(async () => {
        const [n, k, blocksize] = [3, 127, 64];
        const values = gaussian(n * k, 1);
        using dense = Tensor.from(values, [n, k]);
        const weight = Weight.quantize4bit(dense, { quantType, blocksize });
        using back = weight.dequantize();
        const actual = await back.readFloat32();
        for (let i = 0; i < n * k; i++) {
          const block = values.subarray(i - (i % blocksize), Math.min(n * k, i - (i % blocksize) + blocksize));
          const absmax = block.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
          const best = Math.min(...CODE_BOOKS[quantType].map((code) => Math.abs(code * absmax - values[i]!)));
          expect(Math.abs(actual[i]! - values[i]!)).toBeLessThanOrEqual(best + 1e-6 * absmax);
        }
        expect(weight).toMatchObject({ kind: "4bit", outFeatures: n, inFeatures: k, dense: undefined });
        weight.dispose();
        weight.dispose();
      }));
  }

  it("is the same built from parts, with double quantisation", () =>
    leavesNothing(async () => {
      const [n, k] = [40, 96];
      using dense = Tensor.from(gaussian(n * k, 1), [n, k]);
      const options = { blocksize: 64, doubleQuant: true } as const;
      const whole = Weight.quantize4bit(dense, options);
      const builder = new FourBitBuilder([n, k], device, options);
      for (const [begin, end] of [
        [0, 1280],
        [1280, 3776],
        [3776, n * k],
      ] as const) {
        using flat = dense.reshape(n * k);
        using part = flat.slice(begin, end);
        builder.add(part, begin);
      }
      const parts = builder.finish();
      for (const name of ["codes", "absmax"] as const) {
        expect(await parts.fourBitParts![name].read()).toEqual(await whole.fourBitParts![name].read());
      }
      expect(whole.fourBitParts!.absmax.dtype).toBe("uint8");
      using a = whole.dequantize("bfloat16");
      using b = parts.dequantize("bfloat16");
      expect(await a.read()).toEqual(await b.read());
      whole.dispose();
      parts.dispose();
    }));

  it("counts values that are not finite", () =>
    leavesNothing(async () => {
      const values = gaussian(128, 1);
      values[3] = Number.NaN;
      values[100] = Number.NEGATIVE_INFINITY;
      using dense = Tensor.from(values, [2, 64]);
      using count = Tensor.from(new Int32Array(1), [1]);
      Weight.quantize4bit(dense, {}, count).dispose();
      expect((await count.read())[0]).toBe(2);
    }));

  it("refuses a block size that no file can hold, and a matrix that is none", () =>
    leavesNothing(() => {
      using dense = Tensor.zeros([2, 64]);
      expect(codeOf(() => Weight.quantize4bit(dense, { blocksize: 48 }))).toBe("INVALID_ARGUMENT");
      using vector = Tensor.zeros([64]);
      expect(codeOf(() => Weight.dense(vector))).toBe("SHAPE_MISMATCH");
    }));
});

describe("a dense weight", () => {
  it("owns its tensor; a borrowed one does not", () =>
    leavesNothing(() => {
      const tensor = Tensor.zeros([2, 3]);
      const weight = Weight.dense(tensor);
      Weight.borrow(tensor).dispose();
      expect(tensor.disposed).toBe(false);
      expect(weight.kind).toBe("dense");
      weight.dispose();
      expect(tensor.disposed).toBe(true);
    }));
});
