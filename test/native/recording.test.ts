import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it } from "vitest";
import { addon, cpu, F32, readFloats, thrown, upload } from "./helpers.js";

const { kernels } = addon;
const folder = mkdtempSync(join(tmpdir(), "lowrank-recording-"));
const file = join(folder, "bytes");
afterAll(() => rmSync(folder, { recursive: true }));
let before: { live: number; tensors: number };
beforeEach(() => {
  before = addon.memory(cpu);
});
afterEach(() => {
  expect(addon.memory(cpu)).toMatchObject({ live: before.live, tensors: before.tensors });
});

// Keeps the stream at work for some 200 ms, longer than this thread loses its core between two calls.
function occupy(y: number): void {
  for (let i = 0; i < 40; i++) kernels.multiplyAdds(cpu, y, 0, 500);
}

describe("a recording", () => {
  it("computes nothing when it is made, and at each replay on the values of then", async () => {
    const [a, b, y] = [upload([1, 2], [2, 1]), upload([10, 20], [2, 1]), upload([-1, -1], [2, 1])];
    const recording = addon.record(cpu, () => kernels.add(cpu, y, a, b));
    expect(await readFloats(y)).toEqual([-1, -1]);
    addon.replay(recording);
    expect(await readFloats(y)).toEqual([11, 22]);
    addon.upload(a, Float32Array.of(5, 6));
    addon.replay(recording);
    addon.upload(a, Float32Array.of(7, 8));
    expect(await readFloats(y)).toEqual([15, 26]);
    addon.replay(recording);
    expect(await readFloats(y)).toEqual([17, 28]);
    addon.freeRecording(recording);
    for (const t of [a, b, y]) addon.free(t);
  });

  it("keeps what its ops use, whatever is freed and allocated meanwhile", async () => {
    const [a, b, y] = [upload([1, 2], [2, 1]), upload([10, 20], [2, 1]), upload([0, 0], [2, 1])];
    const recording = addon.record(cpu, () => {
      const sum = addon.alloc(cpu, F32, [2, 1]);
      kernels.add(cpu, sum, a, b);
      kernels.add(cpu, y, sum, sum);
      addon.free(sum);
    });
    addon.free(a);
    addon.free(b);
    const others = Array.from({ length: 50 }, () => upload([-7, -7], [2, 1]));
    for (let i = 0; i < 3; i++) addon.replay(recording);
    expect(await readFloats(y)).toEqual([22, 44]);
    for (const other of others) {
      expect(await readFloats(other)).toEqual([-7, -7]);
      addon.free(other);
    }
    expect(addon.memory(cpu).live).toBe(before.live + 4 * 8);
    addon.freeRecording(recording);
    addon.free(y);
  });

  it("runs to its end though it is freed behind its replay", async () => {
    const y = upload([1, 1]);
    const recording = addon.record(cpu, () => {
      for (let i = 0; i < 1000; i++) kernels.axpy(cpu, y, y, 0.001);
    });
    addon.replay(recording);
    addon.freeRecording(recording);
    expect((await readFloats(y))[0]).toBeCloseTo(1.001 ** 1000, 3);
    addon.free(y);
  });

  it("has scratch at every replay, also when it was given back before", async () => {
    const rows = 65;
    const [x, y] = [upload(Array<number>(rows * 4).fill(1), [rows, 4]), addon.alloc(cpu, F32, [rows, 3])];
    const values = upload(
      Array.from({ length: 12 }, (_, i) => i),
      [3, 4],
    );
    const weight = addon.weightDense(values);
    const words = Float64Array.of(x, 0, 0, 0, 0, 0, 0, 0, 0, 1, weight, 0, y, 0, 0, 0);
    const recording = addon.record(cpu, () => kernels.linear(cpu, words));
    for (let i = 0; i < 2; i++) {
      addon.trim(cpu);
      kernels.fill(cpu, y, 0);
      addon.replay(recording);
      expect((await readFloats(y)).slice(-3)).toEqual([6, 22, 38]);
    }
    addon.freeRecording(recording);
    addon.freeWeight(weight);
    for (const t of [x, y, values]) addon.free(t);
  });

  it("is counted in the profile op by op", async () => {
    const y = upload([1]);
    const recording = addon.record(cpu, () => {
      kernels.fill(cpu, y, 1);
      kernels.axpy(cpu, y, y, 1);
    });
    addon.profile(cpu, true);
    for (let i = 0; i < 3; i++) addon.replay(recording);
    await readFloats(y);
    expect(addon.profile(cpu, false)).toMatchObject({ fill: { calls: 3 }, axpy: { calls: 3 } });
    addon.freeRecording(recording);
    addon.free(y);
  });

  it("may hold another", async () => {
    const y = upload([1]);
    const inner = addon.record(cpu, () => kernels.axpy(cpu, y, y, 1));
    const outer = addon.record(cpu, () => {
      addon.replay(inner);
      addon.replay(inner);
    });
    addon.freeRecording(inner);
    addon.replay(outer);
    expect(await readFloats(y)).toEqual([4]);
    addon.freeRecording(outer);
    addon.free(y);
  });

  it("takes no waiting, reading, other device or recording inside; what its body throws comes through and nothing is recorded", async () => {
    const y = upload([1]);
    const scalar = addon.openDevice("cpu:scalar:1");
    const other = addon.alloc(scalar, F32, [1]);
    writeFileSync(file, "1234");
    const refused: [string, () => unknown][] = [
      ["read", () => addon.read(y)],
      ["synchronize", () => addon.synchronize(cpu)],
      ["readFile", () => addon.readFile(y, 0, file, 0, 4)],
      ["fill", () => kernels.fill(scalar, other, 1)],
      ["record", () => addon.record(cpu, () => {})],
    ];
    for (const [op, body] of refused)
      expect(thrown(() => addon.record(cpu, () => void body()))).toMatchObject({ code: "INVALID", op });
    const mine = new Error("mine");
    const throwing = () => {
      kernels.fill(cpu, y, 9);
      throw mine;
    };
    expect(thrown(() => addon.record(cpu, throwing))).toBe(mine);
    for (const wrong of [undefined, 1, {}])
      expect(thrown(() => addon.record(cpu, wrong as never))).toMatchObject({ code: "INVALID", op: "record" });
    kernels.axpy(cpu, y, y, 1);
    expect(await readFloats(y)).toEqual([2]);
    addon.free(y);
    addon.free(other);
  });

  it("is refused while a file is read into what it uses", async () => {
    const y = upload([1]);
    const recording = addon.record(cpu, () => kernels.fill(cpu, y, 3));
    writeFileSync(file, new Uint8Array(Float32Array.of(8).buffer));
    occupy(y); // the file waits for it
    const filled = addon.readFile(y, 0, file, 0, 4);
    expect(thrown(() => addon.replay(recording))).toMatchObject({ code: "INVALID", op: "replay" });
    await filled;
    expect(await readFloats(y)).toEqual([8]);
    addon.replay(recording);
    expect(await readFloats(y)).toEqual([3]);
    addon.freeRecording(recording);
    addon.free(y);
  });

  it.each(["kept", "freed"])("lets a file into what it uses behind its last replay, the recording %s", async (then) => {
    const [y, other] = [upload([1]), upload([1])];
    const recording = addon.record(cpu, () => {
      occupy(other); // a file that did not wait would come before what follows
      kernels.fill(cpu, y, 3);
    });
    writeFileSync(file, new Uint8Array(Float32Array.of(8).buffer));
    addon.replay(recording);
    if (then === "freed") addon.freeRecording(recording);
    await addon.readFile(y, 0, file, 0, 4);
    expect(await readFloats(y)).toEqual([8]);
    if (then === "kept") addon.freeRecording(recording);
    for (const t of [y, other]) addon.free(t);
  });

  it("has a handle of its own kind", () => {
    const y = upload([1]);
    const recording = addon.record(cpu, () => kernels.fill(cpu, y, 3));
    expect(thrown(() => addon.free(recording))).toMatchObject({ code: "INVALID", op: "free" });
    expect(thrown(() => addon.replay(y))).toMatchObject({ code: "INVALID", op: "replay" });
    addon.freeRecording(recording);
    expect(thrown(() => addon.replay(recording)).code).toBe("DISPOSED");
    expect(thrown(() => addon.freeRecording(recording)).code).toBe("DISPOSED");
    addon.free(y);
  });

  it("comes with errors of its ops at the next wait, at every replay", async () => {
    const [ids, table, y] = [addon.alloc(cpu, 3, [1]), upload([1, 2], [2, 1]), addon.alloc(cpu, F32, [1, 1])];
    addon.upload(ids, Int32Array.of(7));
    const recording = addon.record(cpu, () => kernels.embedding(cpu, y, table, ids, 1));
    for (let i = 0; i < 2; i++) {
      addon.replay(recording);
      await expect(addon.synchronize(cpu)).rejects.toMatchObject({ code: "INVALID", op: "embedding" });
    }
    addon.freeRecording(recording);
    for (const t of [ids, table, y]) addon.free(t);
  });
});
