import { describe, expect, it } from "vitest";
import { getDevice } from "../../src/tensor/device.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { codeOf, leavesNothing } from "./live.js";

const device = getDevice();

describe("ownership", () => {
  it("gives all bytes back with the last reference and view", () =>
    leavesNothing(() => {
      const live = device.memory.live;
      const tensor = Tensor.zeros([256, 256]);
      expect(device.memory.live - live).toBeGreaterThanOrEqual(256 * 256 * 4);
      const view = tensor.slice(1, 2);
      tensor.retain();
      tensor.dispose();
      expect(tensor.disposed).toBe(false);
      tensor.dispose();
      expect(tensor.disposed).toBe(true);
      expect(device.memory.live).toBeGreaterThan(live);
      view.dispose();
      expect(device.memory.live).toBe(live);
    }));

  it("takes a second dispose() as nothing, and refuses use after it", async () => {
    const tensor = Tensor.zeros([2]);
    tensor.dispose();
    tensor.dispose();
    expect(codeOf(() => tensor.slice(0, 1))).toBe("DISPOSED");
    expect(codeOf(() => tensor.upload(new Float32Array(2)))).toBe("DISPOSED");
    expect(codeOf(() => tensor.retain())).toBe("DISPOSED");
    await expect(tensor.read()).rejects.toMatchObject({ code: "DISPOSED", hint: expect.stringContaining("scope") });
  });

  it("ends with the block of `using`", () =>
    leavesNothing(() => {
      using tensor = Tensor.zeros([3]);
      expect(tensor.size).toBe(3);
    }));
});

describe("values", () => {
  it("reads what was written, through views of the same storage", () =>
    leavesNothing(async () => {
      using tensor = Tensor.from([1, 2, 3, 4, 5, 6], [3, 2]);
      using row = tensor.slice(1, 3);
      using flat = row.reshape(4);
      row.upload(Float32Array.of(30, 40, 50, 60));
      expect([...(await tensor.readFloat32())]).toEqual([1, 2, 30, 40, 50, 60]);
      expect([...(await flat.readFloat32())]).toEqual([30, 40, 50, 60]);
    }));

  it("copies an upload at the call", () =>
    leavesNothing(async () => {
      const data = Float32Array.of(7);
      using tensor = Tensor.from(data, [1]);
      data[0] = 8;
      expect(await tensor.item()).toBe(7);
    }));

  it("widens 16-bit floats: values, subnormals, infinities", () =>
    leavesNothing(async () => {
      using bf16 = Tensor.from(Uint16Array.of(0x3f80, 0xc000, 0x7f80), [3], { dtype: "bfloat16" });
      expect([...(await bf16.readFloat32())]).toEqual([1, -2, Number.POSITIVE_INFINITY]);
      using f16 = Tensor.from(Uint16Array.of(0x3c00, 0x0001, 0xfc00, 0x7bff), [4], { dtype: "float16" });
      expect([...(await f16.readFloat32())]).toEqual([1, 2 ** -24, Number.NEGATIVE_INFINITY, 65504]);
    }));

  it("holds empty and scalar shapes", () =>
    leavesNothing(async () => {
      using empty = Tensor.zeros([0, 5]);
      expect((await empty.read()).length).toBe(0);
      using scalar = Tensor.from([3], []);
      expect(await scalar.item()).toBe(3);
    }));
});

describe("refusals", () => {
  it("names the rule of a wrong shape", () =>
    leavesNothing(() => {
      using tensor = Tensor.zeros([2, 3]);
      expect(codeOf(() => tensor.reshape(4))).toBe("SHAPE_MISMATCH");
      expect(codeOf(() => tensor.slice(1, 3))).toBe("SHAPE_MISMATCH");
      expect(codeOf(() => tensor.slice(-1, 1))).toBe("SHAPE_MISMATCH");
      expect(codeOf(() => tensor.upload(new Float32Array(5)))).toBe("SHAPE_MISMATCH");
      expect(codeOf(() => Tensor.from(new Float32Array(2), [3]))).toBe("SHAPE_MISMATCH");
      expect(codeOf(() => Tensor.empty([1], { dtype: "float8" as "float32" }))).toBe("INVALID_ARGUMENT");
    }));

  it("tells how much memory is missing", () =>
    leavesNothing(() => {
      device.addon.failAllocation(1);
      try {
        Tensor.empty([1024]);
        throw new Error("nothing was thrown");
      } catch (error) {
        expect(error).toMatchObject({ code: "OUT_OF_MEMORY", details: { needed: expect.any(Number), free: expect.any(Number) } });
      } finally {
        device.addon.failAllocation(0);
      }
    }));

  it("knows no other device", () => {
    expect(codeOf(() => getDevice("tpu:7"))).toBe("DEVICE_NOT_FOUND");
    expect(getDevice("cpu")).toBe(device);
  });
});

describe("scope", () => {
  it("frees what its body made, but for the result", () =>
    leavesNothing(() => {
      const tensors = device.memory.tensors;
      const { kept, list } = scope(() => {
        Tensor.zeros([4]);
        return { kept: Tensor.zeros([4]), list: [Tensor.zeros([1]), 5] as const };
      });
      expect(device.memory.tensors - tensors).toBe(2);
      kept.dispose();
      list[0].dispose();
    }));

  it("hands the result of an inner scope to the outer one", () =>
    leavesNothing(() => {
      scope(() => {
        const inner = scope(() => Tensor.zeros([4]));
        expect(inner.disposed).toBe(false);
      });
    }));

  it("frees everything when its body throws", () =>
    leavesNothing(() => {
      expect(() =>
        scope(() => {
          Tensor.zeros([4]);
          throw new Error("boom");
        }),
      ).toThrow("boom");
    }));

  it("refuses a body that returns a promise", () =>
    leavesNothing(() => {
      expect(codeOf(() => scope(async () => Tensor.zeros([1])))).toBe("INVALID_ARGUMENT");
    }));

  it("does not take back what was kept or retained", () =>
    leavesNothing(() => {
      const [kept, retained] = [[] as Tensor[], [] as Tensor[]];
      scope(() => {
        kept.push(Tensor.zeros([1]).keep());
        retained.push(Tensor.zeros([1]).retain());
      });
      for (const tensor of [...kept, ...retained]) {
        expect(tensor.disposed).toBe(false);
        tensor.dispose();
      }
    }));
});
