import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openCheckpoint } from "../../src/io/checkpoint.js";
import { errorOf, safetensorsBytes, tempFolder } from "./files.js";

const shard = (name: string, value: number) =>
  safetensorsBytes({ [name]: { dtype: "U8", shape: [2], data_offsets: [0, 2] } }, Uint8Array.of(value, value));

function sharded(weightMap: unknown, folder = tempFolder()): string {
  writeFileSync(
    join(folder, "model.safetensors.index.json"),
    JSON.stringify({ metadata: { total_size: 4 }, weight_map: weightMap }),
  );
  writeFileSync(join(folder, "one.safetensors"), shard("a", 1));
  writeFileSync(join(folder, "two.safetensors"), shard("b", 2));
  return folder;
}

describe("openCheckpoint", () => {
  it("joins the shards of an index", async () => {
    const checkpoint = await openCheckpoint(sharded({ b: "two.safetensors", a: "one.safetensors" }));
    expect([...checkpoint.tensors.keys()]).toEqual(["b", "a"]);
    expect([...(await checkpoint.read("a")), ...(await checkpoint.read("b"))]).toEqual([1, 1, 2, 2]);
    expect((await errorOf((async () => checkpoint.read("c"))())).code).toBe("NOT_FOUND");
    await checkpoint.close();
  });

  it("opens a single file", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "model.safetensors"), shard("w", 9));
    const checkpoint = await openCheckpoint(folder);
    expect([...(await checkpoint.read("w"))]).toEqual([9, 9]);
    await checkpoint.close();
  });

  it.each<[string, unknown, string, RegExp]>([
    ["a tensor its shard lacks", { a: "two.safetensors" }, "INVALID_FILE", /says that two.safetensors holds 'a'/],
    ["a shard that is missing", { a: "three.safetensors" }, "NOT_FOUND", /three.safetensors does not exist/],
    ["a path upwards", { a: "../x/one.safetensors" }, "INVALID_FILE", /leaves the folder/],
    ["a hidden path upwards", { a: "x/../../one.safetensors" }, "INVALID_FILE", /leaves the folder/],
    ["an absolute path", { a: "/etc/passwd" }, "INVALID_FILE", /leaves the folder/],
    ["a number", { a: 1 }, "INVALID_FILE", /names no file/],
    ["a pickle", { a: "pytorch_model.bin" }, "UNSUPPORTED", /pickle/],
    ["an empty map", {}, "INVALID_FILE", /no weight_map/],
    ["no map", undefined, "INVALID_FILE", /no weight_map/],
  ])("refuses an index with %s", async (_, weightMap, code, message) => {
    const error = await errorOf(openCheckpoint(sharded(weightMap)));
    expect(error.code).toBe(code);
    expect(error.message).toMatch(message);
  });

  it("refuses a link out of the folder, and takes the links of the Hub cache", async () => {
    const outside = join(tempFolder(), "blob");
    writeFileSync(outside, shard("a", 1));
    const folder = sharded({ a: "link.safetensors" });
    symlinkSync(outside, join(folder, "link.safetensors"));
    expect((await errorOf(openCheckpoint(folder))).message).toMatch(/outside the folder/);

    const root = join(tempFolder(), "models--org--name");
    const snapshot = join(root, "snapshots", "abc");
    mkdirSync(snapshot, { recursive: true });
    mkdirSync(join(root, "blobs"));
    sharded({ a: "link.safetensors" }, snapshot);
    writeFileSync(join(root, "blobs", "f00"), shard("a", 5));
    symlinkSync("../../blobs/f00", join(snapshot, "link.safetensors"));
    const checkpoint = await openCheckpoint(snapshot);
    expect([...(await checkpoint.read("a"))]).toEqual([5, 5]);
    await checkpoint.close();
  });

  it("says what is missing", async () => {
    expect((await errorOf(openCheckpoint(join(tempFolder(), "none")))).code).toBe("NOT_FOUND");
    const folder = tempFolder();
    expect((await errorOf(openCheckpoint(folder))).message).toMatch(/holds no weights/);
    writeFileSync(join(folder, "pytorch_model.bin"), "x");
    expect((await errorOf(openCheckpoint(folder))).code).toBe("UNSUPPORTED");
  });
});
