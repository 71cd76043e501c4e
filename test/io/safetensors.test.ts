import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { openSafetensors, SAFETENSORS_DTYPES } from "../../src/io/safetensors.js";
import { safetensorsSize, type TensorEntry, writeSafetensors } from "../../src/io/safetensors-write.js";
import { goldenFolder } from "../golden/folder.js";
import { errorOf, safetensorsBytes, tempFolder } from "./files.js";

const F32 = (begin: number, end: number, shape = [(end - begin) / 4]) => ({ dtype: "F32", shape, data_offsets: [begin, end] });

function file(bytes: Uint8Array): string {
  const path = join(tempFolder(), "model.safetensors");
  writeFileSync(path, bytes);
  return path;
}

describe("openSafetensors", () => {
  it("gives names, forms and exact bytes", async () => {
    const data = Uint8Array.from({ length: 14 }, (_, i) => i * 17);
    const header = {
      __metadata__: { format: "pt" },
      b: { dtype: "U8", shape: [2], data_offsets: [12, 14] },
      "a.weight": F32(0, 12, [3, 1]),
    };
    const st = await openSafetensors(file(safetensorsBytes(header, data)));
    expect({ ...st.metadata }).toEqual({ format: "pt" });
    expect([...st.tensors.keys()]).toEqual(["b", "a.weight"]);
    expect(st.tensors.get("a.weight")).toMatchObject({ dtype: "F32", shape: [3, 1] });
    expect(await st.read("a.weight")).toEqual(data.subarray(0, 12));
    const part = new Uint8Array(5);
    await st.readInto("a.weight", part, 3, 4);
    expect([...part]).toEqual([...data.subarray(3, 7), 0]);
    expect((await errorOf(st.readInto("a.weight", part, 10, 4))).code).toBe("INVALID_ARGUMENT");
    expect((await errorOf(st.read("c"))).code).toBe("NOT_FOUND");
    await st.close();
  });

  it("reads many tensors, however small or large, in the order of the file", async () => {
    // Around the size up to which neighbours are read together.
    const sizes = { c: 700_000, a: 400_000, f: 8, d: 1_500_000, b: 0, e: 12 };
    let end = 0;
    const entries = Object.entries(sizes).map(([name, size]) => {
      end += size;
      return [name, F32(end - size, end)] as const;
    });
    const data = Uint8Array.from({ length: end }, (_, i) => (i * 31) % 251);
    const st = await openSafetensors(file(safetensorsBytes(Object.fromEntries(entries), data)));
    for (const names of [["a", "b", "c", "d", "e", "f"], ["e", "a"], ["d"], ["b"], []]) {
      const read: string[] = [];
      for await (const [name, bytes] of st.readMany(names)) {
        read.push(name);
        const [begin, end] = entries.find(([other]) => other === name)![1].data_offsets;
        expect(Buffer.compare(bytes, data.subarray(begin, end)), name).toBe(0);
      }
      expect(read).toEqual(Object.keys(sizes).filter((name) => names.includes(name)));
    }
    await st.close();
  });

  it("takes a tensor called __proto__, empty tensors and scalars", async () => {
    const header = `{"__proto__":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"I64","shape":[0,9007199254740991],"data_offsets":[4,4]}}`;
    const st = await openSafetensors(file(safetensorsBytes(header, new Uint8Array(4))));
    expect(st.tensors.get("__proto__")?.shape).toEqual([]);
    expect(await st.read("e")).toHaveLength(0);
    await st.close();
  });

  const four = new Uint8Array(4);
  it.each<[string, Uint8Array, RegExp]>([
    ["too short", new Uint8Array(5), /5 bytes, too few/],
    ["header longer than the file", safetensorsBytes({}, four, 1000n), /header has 1000 bytes; at most 6/],
    ["header of 2^60", safetensorsBytes({}, four, 1n << 60n), /header has 1152921504606846976 bytes/],
    ["no JSON", safetensorsBytes("{oops}"), /not valid JSON/],
    ["a list", safetensorsBytes("[]"), /does not begin with/],
    ["invalid UTF-8", Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe), /not UTF-8/],
    [
      "duplicate name",
      safetensorsBytes(`{"a":${JSON.stringify(F32(0, 4))},"a":${JSON.stringify(F32(0, 4))}}`, four),
      /key "a" twice/,
    ],
    ["unknown dtype", safetensorsBytes({ a: { ...F32(0, 4), dtype: "F33" } }, four), /'a': unknown dtype: .*found F33/],
    ["dtype from the prototype", safetensorsBytes({ a: { ...F32(0, 4), dtype: "toString" } }, four), /unknown dtype/],
    ["negative dimension", safetensorsBytes({ a: F32(0, 4, [-1]) }, four), /bad shape/],
    ["fractional dimension", safetensorsBytes({ a: F32(0, 4, [1.5]) }, four), /bad shape/],
    ["one offset", safetensorsBytes({ a: { ...F32(0, 4), data_offsets: [0] } }, four), /bad data_offsets/],
    ["end before begin", safetensorsBytes({ a: { ...F32(0, 4), data_offsets: [4, 0] } }, four), /ends before it begins/],
    ["past the end", safetensorsBytes({ a: F32(0, 8) }, four), /'a': data outside the file/],
    ["shape and offsets disagree", safetensorsBytes({ a: F32(0, 4, [2]) }, four), /expected 8 bytes, found 4 bytes/],
    ["huge shape", safetensorsBytes({ a: F32(0, 4, [2 ** 40, 2 ** 40, 2 ** 40]) }, four), /disagree/],
    ["overlap", safetensorsBytes({ a: F32(0, 8), b: F32(4, 12) }, new Uint8Array(12)), /'b' that overlaps/],
    ["hole", safetensorsBytes({ a: F32(0, 4), b: F32(8, 12) }, new Uint8Array(12)), /'b' that leaves a hole/],
    ["trailing bytes", safetensorsBytes({ a: F32(0, 4) }, new Uint8Array(9)), /holds 9 bytes of data, its tensors take 4/],
    ["metadata that is no object", safetensorsBytes({ __metadata__: 3 }), /__metadata__/],
    ["metadata that is no text", safetensorsBytes({ __metadata__: { a: 1 } }), /'a' that is not text/],
    ["entry that is no object", safetensorsBytes({ a: 3 }), /bad header entry/],
  ])("refuses: %s", async (_, bytes, message) => {
    const error = await errorOf(openSafetensors(file(bytes)));
    expect(error.code).toBe("INVALID_FILE");
    expect(error.message).toMatch(message);
    expect(error.message).toContain("model.safetensors");
  });

  it("refuses missing files and pickles", async () => {
    expect((await errorOf(openSafetensors(join(tempFolder(), "none.safetensors")))).code).toBe("NOT_FOUND");
    const error = await errorOf(openSafetensors("adapter_model.bin"));
    expect(error.code).toBe("UNSUPPORTED");
    expect(error.hint).toContain("save_file");
  });

  it("reads or refuses any mutation of a file, and never anything else", async () => {
    const good = safetensorsBytes(
      { a: F32(0, 8), "b.c": { dtype: "U8", shape: [2, 2], data_offsets: [8, 12] } },
      new Uint8Array(12),
    );
    const path = file(good);
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.nat(good.length - 1), fc.nat(255)), { minLength: 1, maxLength: 4 }),
        fc.nat(good.length),
        async (edits, cut) => {
          const bytes = Uint8Array.from(good);
          for (const [at, value] of edits) bytes[at] = value;
          writeFileSync(path, edits.length > 2 ? bytes.subarray(0, cut) : bytes);
          try {
            const st = await openSafetensors(path);
            for (const [name, { dtype, shape }] of st.tensors) {
              expect((await st.read(name)).length).toBe(shape.reduce((n, m) => n * m, 1) * SAFETENSORS_DTYPES[dtype]);
            }
            await st.close();
          } catch (error) {
            if (!(error instanceof LowrankError)) throw error;
          }
        },
      ),
      { numRuns: 300, seed: 7 },
    );
  });
});

describe("writeSafetensors", () => {
  const sources = [
    "peft/adapter-lora-qv/adapter/adapter_model.safetensors",
    "peft/qlora-nf4-dq/model/model.safetensors",
    "peft/bases/llama/model.safetensors",
  ];
  it.each(sources)("writes %s byte for byte as Python did", async (name) => {
    const source = join(goldenFolder(name.split("/")[0]!), "..", name);
    if (!existsSync(source)) return console.warn(`not checked: ${source} is absent`);
    const st = await openSafetensors(source);
    const entries: TensorEntry[] = [...st.tensors].map(([name, { dtype, shape }]) => ({
      name,
      dtype,
      shape,
      bytes: () => st.read(name),
    }));
    const path = join(tempFolder(), "copy.safetensors");
    await writeSafetensors(path, { ...st.metadata }, entries.reverse());
    expect(Buffer.compare(readFileSync(path), readFileSync(source))).toBe(0);
    expect(safetensorsSize({ ...st.metadata }, entries)).toBe(readFileSync(source).length);
    await st.close();
  });

  it("takes bytes in parts and refuses a wrong number of them, leaving no file", async () => {
    const folder = tempFolder();
    const path = join(folder, "x.safetensors");
    async function* parts(...sizes: number[]) {
      for (const size of sizes) yield new Uint8Array(size).fill(size);
    }
    const entry = (...sizes: number[]): TensorEntry => ({ name: "a", dtype: "F16", shape: [5], bytes: () => parts(...sizes) });
    for (const sizes of [
      [4, 4],
      [8, 4],
    ]) {
      expect((await errorOf(writeSafetensors(path, {}, [entry(...sizes)]))).code).toBe("SHAPE_MISMATCH");
      expect(existsSync(path)).toBe(false);
    }
    await writeSafetensors(path, {}, [entry(4, 6)]);
    const st = await openSafetensors(path);
    expect([...(await st.read("a"))]).toEqual([4, 4, 4, 4, 6, 6, 6, 6, 6, 6]);
    await st.close();
    expect((await errorOf(writeSafetensors(path, {}, [entry(10), entry(10)]))).code).toBe("INVALID_ARGUMENT");
  });
});
