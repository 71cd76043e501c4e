import { expect, it } from "vitest";
import { checkKeys, fill } from "../../src/peft/adapter-file.js";

/** A file of float32 tensors, held in memory. */
function fileOf(tensors: Record<string, number[]>) {
  const infos = Object.entries(tensors).map(([name, values]) => [name, { dtype: "F32", shape: [values.length] }] as const);
  return {
    tensors: new Map(infos),
    read: async (name: string) => new Uint8Array(Float32Array.from(tensors[name]!).buffer),
  } as never;
}

it("keys that are missing are named, but not without end", () => {
  const tensors = Array.from({ length: 12 }, (_, i) => ({ key: `k${i}`, shape: [1] }));
  expect(() => checkKeys(fileOf({ k0: [1] }), { tensors, repeats: [] } as never, "a.safetensors")).toThrow(
    /missing: k1, k2, k3, k4, k5, k6, k7, k8 and 3 more$/,
  );
});

it("weights that are said to be one must be one", async () => {
  const uploaded: Float32Array[] = [];
  const values = { size: 4, upload: (flat: Float32Array) => uploaded.push(flat) };
  const arena = { segments: [{ name: "a", shape: [2, 2], begin: 0, end: 4 }], values } as never;
  const plan = { repeats: [{ key: "b", shape: [2, 2], of: { key: "a", transposed: true }, written: true }] } as never;
  await fill(arena, plan, fileOf({ a: [1, 2, 3, 4], b: [1, 3, 2, 4] }), "f");
  expect(uploaded.map((flat) => [...flat])).toEqual([[1, 2, 3, 4]]);
  await expect(fill(arena, plan, fileOf({ a: [1, 2, 3, 4], b: [1, 2, 3, 4] }), "f")).rejects.toMatchObject({
    code: "INVALID_FILE",
    message: "f ties weights that differ: b is not a",
  });
  expect(uploaded).toHaveLength(1);
});
