import { describe, expect, it } from "vitest";
import { addon, cpu, F32, I32, thrown, U8, upload } from "./helpers.js";

const invalid = (op: string) => ({ code: "INVALID", op });

describe("wrong calls throw typed errors", () => {
  it("for a wrong number of arguments", () => {
    expect(thrown(() => (addon.alloc as (...a: unknown[]) => unknown)(cpu, F32))).toMatchObject(invalid("alloc"));
    expect(thrown(() => (addon.kernels.add as (...a: unknown[]) => unknown)(cpu))).toMatchObject(invalid("add"));
    expect(thrown(() => (addon.memory as (...a: unknown[]) => unknown)(cpu, 1)).message).toBe(
      "[memory] expected 1 arguments but received 2",
    );
  });

  it("for a wrong device, dtype or shape", () => {
    for (const bad of [-1, 7, 99, 0.5, Number.NaN, "cpu"]) expect(thrown(() => addon.memory(bad as number)).code).toBe("INVALID");
    for (const bad of [-1, 5, 1.5, "float32"]) expect(thrown(() => addon.alloc(cpu, bad as number, [1])).code).toBe("INVALID");
    const shapes = [3, "3", null, [1, 2, 3, 4, 5], [-1], [1.5], [Number.NaN], ["2"], [2 ** 60], [2 ** 30, 2 ** 30, 2 ** 30]];
    for (const bad of shapes) expect(thrown(() => addon.alloc(cpu, F32, bad as number[]))).toMatchObject(invalid("alloc"));
    expect(thrown(() => addon.openDevice("tpu")).message).toContain('no device "tpu"');
    expect(thrown(() => addon.openDevice("cpu:scalar:none")).message).toContain(
      "the number of threads must be a number from 1 to 256",
    );
    expect(thrown(() => addon.openDevice("cpu:mmx"))).toMatchObject({ code: "UNSUPPORTED", op: "openDevice" });
  });

  it("for data of another size, another type, or detached", () => {
    const t = upload([1, 2]);
    expect(thrown(() => addon.upload(t, new Float32Array(3))).message).toContain("the tensor has 8 bytes but the data has 12");
    expect(thrown(() => addon.upload(t, [1, 2] as never))).toMatchObject(invalid("upload"));
    const data = new Float32Array(2);
    structuredClone(data.buffer, { transfer: [data.buffer] });
    expect(thrown(() => addon.upload(t, data))).toMatchObject(invalid("upload"));
    addon.free(t);
  });

  it("for argument arrays that are too short, too long or not whole numbers", () => {
    const { linear, attention, tokenLogprob } = addon.kernels;
    for (const bad of [
      [],
      [0, 0, 0],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 2 ** 31],
      [0, 0, 0.5, 0, 0, 0, 0, 0, 0, 0],
      [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9],
    ]) {
      expect(["INVALID", "UNSUPPORTED"]).toContain(thrown(() => linear(cpu, new Float64Array(bad))).code);
    }
    for (const run of [attention, tokenLogprob, linear]) {
      expect(["INVALID", "UNSUPPORTED"]).toContain(thrown(() => run(cpu, new Float32Array(17) as never)).code);
      expect(["INVALID", "UNSUPPORTED"]).toContain(thrown(() => run(cpu, new Float64Array(3))).code);
    }
  });

  it("for arguments of the wrong kind, with an exception of the arguments' own handed on", () => {
    expect(thrown(() => addon.profile(cpu, 1 as never)).message).toBe("[profile] argument 2 must be true or false");
    expect(thrown(() => addon.openDevice(3 as never)).message).toBe("[openDevice] argument 1 must be a string");
    for (const bad of [3, "8", [0], new DataView(new ArrayBuffer(8))])
      expect(thrown(() => addon.kernels.linear(cpu, bad as never)).message).toBe("[linear] argument 2 must be a Float64Array");
    for (const whole of [-(2 ** 40), 2 ** 40])
      expect(thrown(() => addon.kernels.linear(cpu, new Float64Array([0, 0, whole]))).message).toContain(
        `number 2 of the argument array must be a whole number but is ${whole < 0 ? "-" : ""}1.09951e+12`,
      );
    const mine = new RangeError("mine");
    const shape = Object.defineProperty([1], 0, {
      get() {
        throw mine;
      },
    });
    expect(thrown(() => addon.alloc(cpu, F32, shape))).toBe(mine);
  });

  it("for a dense weight that is absent, no matrix, or of whole numbers", () => {
    const row = upload([1, 2]);
    const bytes = addon.alloc(cpu, U8, [2, 2]);
    expect(thrown(() => addon.weightDense(0)).message).toBe("[weightDense] a weight must have 2 dimensions but has 0");
    expect(thrown(() => addon.weightDense(row)).message).toBe("[weightDense] a weight must have 2 dimensions but has 1");
    expect(thrown(() => addon.weightDense(bytes)).message).toBe("[weightDense] a dense weight is float32, bfloat16 or float16");
    addon.free(row);
    addon.free(bytes);
  });

  it("for a 4-bit weight whose parts do not fit", () => {
    const codes = addon.alloc(cpu, U8, [32]);
    const absmax = upload([1]);
    const code = upload(Array.from({ length: 16 }, (_, i) => i));
    const make = (n: number, k: number, parts = [codes, absmax, 0, 0, 0, code]) =>
      addon.weight4bit(...(parts as [number, number, number, number, number, number]), n, k, 64, 0, 0);
    addon.freeWeight(make(8, 8));
    expect(thrown(() => make(8, 9)).message).toContain("codes must have 36 elements but has 32");
    expect(thrown(() => make(8, 8, [codes, absmax, absmax, absmax, absmax, code])).code).toBe("INVALID");
    expect(thrown(() => make(8, 8, [codes, absmax, 0, 0, 0, absmax])).message).toContain("code must have 16 elements");
    expect(thrown(() => make(8, 8, [absmax, absmax, 0, 0, 0, code])).message).toContain("codes has the wrong dtype");
    expect(thrown(() => make(8, 8, [codes, 0, 0, 0, 0, code])).code).toBe("INVALID");
    const statistics = addon.alloc(cpu, U8, [1]);
    const nestedCode = addon.alloc(cpu, F32, [256]);
    const nested = [codes, statistics, absmax, nestedCode, absmax, code];
    const makeNested = (blocksize: number, parts = nested) =>
      addon.weight4bit(...(parts as [number, number, number, number, number, number]), 8, 8, 64, blocksize, 0);
    addon.freeWeight(makeNested(256));
    expect(thrown(() => makeNested(0)).message).toContain("the nested block size must be at least 1");
    for (const absent of [0, 1, 3, 4, 5]) {
      const parts = nested.map((part, i) => (i === absent ? 0 : part));
      expect(thrown(() => makeNested(256, parts)).message).toContain("codes, absmax and code are needed");
    }
    for (const t of [statistics, nestedCode, codes, absmax, code]) addon.free(t);
  });

  it("for outputs on top of indices, which the kernel has checked by then", async () => {
    const bytes = addon.alloc(cpu, U8, [4096]);
    addon.kernels.fill(cpu, bytes, 0);
    const at = (dtype: number, ...shape: number[]) => addon.view(bytes, 0, dtype, shape);
    const apart = (dtype: number, ...shape: number[]) => addon.view(bytes, 2048, dtype, shape);
    const { kernels: k } = addon;
    const refused = async (op: string, call: () => void) => {
      let error: unknown;
      try {
        call();
        await addon.synchronize(cpu);
      } catch (thrown) {
        error = thrown;
      }
      expect(error, op).toMatchObject({ code: "INVALID", op, message: expect.stringContaining("must not overlap") });
    };
    await refused("embedding", () => k.embedding(cpu, at(F32, 4, 2), apart(F32, 3, 2), at(I32, 4), 1));
    await refused("embedding_grad", () => k.embeddingGrad(cpu, at(F32, 3, 2), apart(F32, 4, 2), at(I32, 4), 1));
    await refused("adamw", () =>
      k.adamw(
        cpu,
        at(F32, 8),
        apart(F32, 8),
        apart(F32, 8),
        apart(F32, 8),
        0,
        0,
        0,
        0,
        0,
        apart(U8, 64),
        at(U8, 32),
        1,
        0,
        0,
        0,
        0,
        1,
      ),
    );
  });

  it("for what would be read past its end, or off its alignment", async () => {
    const bytes = addon.alloc(cpu, U8, [256]);
    const odd = addon.view(bytes, 1, U8, [200]);
    expect(thrown(() => addon.view(odd, 0, F32, [4])).message).toContain("no multiple of the element's 4 bytes");
    const f = (...shape: number[]) => addon.alloc(cpu, F32, shape);
    const group = (bias: number) =>
      new Float64Array([f(7, 3), 0, 0, 0, 0, 0, 0, 0, 0, 1, addon.weightDense(f(5, 3)), bias, f(7, 5), 0, 0, 0]);
    expect(thrown(() => addon.kernels.linear(cpu, group(addon.alloc(cpu, U8, [5])))).message).toContain(
      "bias must be float32, bfloat16 or float16",
    );
    addon.kernels.prefetch(cpu, 0, 0, f(1));
    await expect(addon.synchronize(cpu)).rejects.toMatchObject({ code: "INVALID", op: "prefetch" });
    for (const value of [-1, 256, 0.5, Number.NaN]) {
      addon.kernels.fill(cpu, bytes, value);
      await expect(addon.synchronize(cpu)).rejects.toMatchObject({ code: "INVALID", op: "fill" });
    }
  });

  it("for whole numbers beyond 64 bits, and for what is no bigint", () => {
    const t = addon.alloc(cpu, F32, [1]);
    for (const key of [1n << 64n, -1n, 1, "1"])
      expect(thrown(() => addon.kernels.random(cpu, t, 0, 0, 1, key as bigint)).message).toBe(
        "[random] argument 6 must be a bigint from 0 to 2^64 - 1",
      );
    addon.kernels.random(cpu, t, 0, 0, 1, (1n << 64n) - 1n);
    addon.free(t);
  });

  it("for names and shapes that the system would take for others", () => {
    const t = addon.alloc(cpu, U8, [1]);
    expect(thrown(() => void addon.readFile(t, 0, "/dev/null\0.bin", 0, 0)).message).toContain("NUL");
    for (const shape of [
      [2 ** 40, 2 ** 10],
      [0, 2 ** 47],
      [2 ** 30, 0, 2 ** 30],
    ])
      expect(thrown(() => addon.alloc(cpu, F32, shape)).message).toContain("spans more than 2^47 bytes");
    addon.free(t);
  });

  it("as errors with a code, an op and both named in the text", () => {
    const error = thrown(() => addon.alloc(cpu, F32, [-1]));
    expect(error).toBeInstanceOf(Error);
    expect(error.message).toMatch(/^\[alloc\] /);
    expect(Object.keys(error)).toEqual(expect.arrayContaining(["code", "op"]));
  });
});
