import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { openSafetensors } from "../../src/io/safetensors.js";
import { checkKeys, fill } from "../../src/peft/adapter-file.js";
import { safetensorsBytes, tempFolder } from "../io/files.js";

/** Runs `body` with a file of float32 tensors. */
async function withFile(tensors: Record<string, number[]>, body: (file: never) => unknown) {
  const path = join(tempFolder(), "a.safetensors");
  let at = 0;
  const header = Object.entries(tensors).map(([name, { length }]) => {
    at += 4 * length;
    return [name, { dtype: "F32", shape: [length], data_offsets: [at - 4 * length, at] }];
  });
  const data = new Uint8Array(Float32Array.from(Object.values(tensors).flat()).buffer);
  writeFileSync(path, safetensorsBytes(Object.fromEntries(header), data));
  const file = await openSafetensors(path);
  try {
    await body(file as never);
  } finally {
    await file.close();
  }
}

it("keys that are missing are named, but not without end", async () => {
  const tensors = Array.from({ length: 12 }, (_, i) => ({ key: `k${i}`, shape: [1] }));
  await withFile({ k0: [1] }, (file) =>
    expect(() => checkKeys(file, { tensors, repeats: [] } as never, "f")).toThrow(
      /missing: k1, k2, k3, k4, k5, k6, k7, k8 and 3 more$/,
    ),
  );
});

it("weights that are said to be one must be one", async () => {
  const arena = { segments: [{ name: "a", shape: [2, 2], begin: 0, end: 4 }], get: () => ({ upload() {} }) } as never;
  const plan = { repeats: [{ key: "b", shape: [2, 2], of: { key: "a", transposed: true }, written: true }] } as never;
  await withFile({ a: [1, 2, 3, 4], b: [1, 3, 2, 4] }, (file) => fill(arena, plan, file, "f"));
  await withFile({ a: [1, 2, 3, 4], b: [1, 2, 3, 4] }, (file) =>
    expect(fill(arena, plan, file, "f")).rejects.toMatchObject({
      code: "INVALID_FILE",
      message: "f ties weights that differ: b is not a",
    }),
  );
});
