import { createHash } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { openCheckpoint } from "../../src/io/checkpoint.js";
import { checkpointHash } from "../../src/io/checkpoint-hash.js";
import { tempFolder } from "./files.js";

interface Entry {
  name: string;
  dtype: string;
  shape: number[];
  bytes: Uint8Array;
}

/** A safetensors file made here, byte by byte. */
function writeFile(path: string, entries: readonly Entry[], metadata?: object): void {
  const header: Record<string, unknown> = metadata ? { __metadata__: metadata } : {};
  let at = 0;
  for (const { name, dtype, shape, bytes } of entries) {
    header[name] = { dtype, shape, data_offsets: [at, at + bytes.length] };
    at += bytes.length;
  }
  const json = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  writeFileSync(path, Buffer.concat([length, json, ...entries.map(({ bytes }) => bytes)]));
}

function folderOf(shards: readonly (readonly Entry[])[], metadata?: object): string {
  const folder = join(tempFolder(), "model");
  mkdirSync(folder);
  if (shards.length === 1) writeFile(join(folder, "model.safetensors"), shards[0]!, metadata);
  else {
    const map: Record<string, string> = {};
    for (const [i, entries] of shards.entries()) {
      writeFile(join(folder, `part-${i}.safetensors`), entries, metadata);
      for (const { name } of entries) map[name] = `part-${i}.safetensors`;
    }
    writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: map }));
  }
  return folder;
}

async function hashOf(shards: readonly (readonly Entry[])[], metadata?: object): Promise<string> {
  const checkpoint = await openCheckpoint(folderOf(shards, metadata));
  return checkpointHash(checkpoint).finally(() => checkpoint.close());
}

const noise = (length: number, seed: number) => Uint8Array.from({ length }, (_, i) => (i * 31 + (i >> 8) * 17 + seed) & 255);
/** One tensor of two pieces and a bit, one of no bytes, small ones. */
const entries: Entry[] = [
  { name: "b", dtype: "BF16", shape: [2, 3], bytes: noise(12, 1) },
  { name: "a", dtype: "U8", shape: [2 * (4 << 20) + 5], bytes: noise(2 * (4 << 20) + 5, 2) },
  { name: "ä", dtype: "F32", shape: [1], bytes: noise(4, 3) },
  { name: "none", dtype: "F16", shape: [0, 4], bytes: noise(0, 0) },
];
const changed = (index: number, change: (entry: Entry) => Partial<Entry>) => [
  entries.map((entry, i) => (i === index ? { ...entry, ...change(entry) } : entry)),
];

describe("the hash of a checkpoint", () => {
  it("is the documented one", async () => {
    const hex = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");
    const [b, a, umlaut, none] = entries as [Entry, Entry, Entry, Entry];
    const piece = 4 << 20;
    const pieces = [a.bytes.subarray(0, piece), a.bytes.subarray(piece, 2 * piece), a.bytes.subarray(2 * piece)].map(hex);
    const lines = [
      ["a", "U8", a.shape, pieces],
      ["b", "BF16", [2, 3], [hex(b.bytes)]],
      ["none", "F16", none.shape, []],
      ["ä", "F32", [1], [hex(umlaut.bytes)]],
    ];
    const expected = hex(Buffer.from(lines.map((line) => `${JSON.stringify(line)}\n`).join("")));
    expect(await hashOf([entries])).toBe(expected);
  });

  it("does not see files, order and metadata", async () => {
    const whole = await hashOf([entries]);
    expect(await hashOf([[...entries].reverse()])).toBe(whole);
    expect(await hashOf([entries], { format: "pt" })).toBe(whole);
    expect(await hashOf([entries.slice(0, 1), entries.slice(1)])).toBe(whole);
  });

  it("sees every byte, name, dtype and shape", async () => {
    const flip = (at: number) => (entry: Entry) => {
      const bytes = Uint8Array.from(entry.bytes);
      bytes[at]! ^= 1;
      return { bytes };
    };
    const others = [
      changed(0, flip(11)),
      changed(1, flip(0)),
      changed(1, flip(4 << 20)),
      changed(1, flip(2 * (4 << 20) + 4)),
      changed(0, () => ({ name: "c" })),
      changed(0, () => ({ dtype: "F16" })),
      changed(0, () => ({ shape: [3, 2] })),
      changed(3, () => ({ shape: [4, 0] })),
      [entries.slice(0, 3)],
    ];
    const hashes = await Promise.all([[entries], ...others].map((shards) => hashOf(shards)));
    expect(new Set(hashes).size).toBe(hashes.length);
  });

  it("of the same bytes cut otherwise into tensors is another", async () => {
    const one = [{ name: "x", dtype: "U8", shape: [4], bytes: noise(4, 0) }];
    const two = ["x", "y"].map((name, i) => ({ name, dtype: "U8", shape: [2], bytes: noise(4, 0).subarray(2 * i, 2 * i + 2) }));
    expect(await hashOf([one])).not.toBe(await hashOf([two]));
  });
});
