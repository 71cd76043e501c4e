/** Folders of files as the formats' seeds are, and how one of them is mutated. */
import { mutateBytes } from "./bytes.js";
import { mutateJson, print, toNode } from "./json.js";
import { mutateLines } from "./lines.js";
import type { Random } from "./random.js";

export type Files = Map<string, Buffer>;

export function filesOf(files: Record<string, unknown>): Files {
  return new Map(
    Object.entries(files).map(([name, content]) => [
      name,
      Buffer.isBuffer(content) ? content : Buffer.from(typeof content === "string" ? content : JSON.stringify(content)),
    ]),
  );
}

export function safetensors(header: Record<string, unknown>, data: Buffer): Buffer {
  return withHeader(Buffer.from(JSON.stringify(header)), data);
}

function withHeader(header: Buffer, data: Buffer, length = BigInt(header.length)): Buffer {
  const prefix = Buffer.alloc(8);
  prefix.writeBigUInt64LE(length);
  return Buffer.concat([prefix, header, data]);
}

/** One to three changes of one file, by its grammar or, one time in five, of bare bytes. */
export function mutateFile(name: string, content: Buffer, random: Random): Buffer {
  let bytes = content;
  for (let i = 1 + random.int(3); i > 0; i--)
    bytes = random.chance(0.2) ? mutateBytes(bytes, random) : byGrammar(name, bytes, random);
  return bytes;
}

function byGrammar(name: string, bytes: Buffer, random: Random): Buffer {
  try {
    if (name.endsWith(".json")) return Buffer.from(print(mutateJson(toNode(JSON.parse(bytes.toString())), random)));
    if (name.endsWith(".safetensors")) return mutateSafetensors(bytes, random);
  } catch {
    return mutateBytes(bytes, random); // an earlier change has broken the grammar
  }
  return mutateLines(name, bytes, random);
}

function mutateSafetensors(bytes: Buffer, random: Random): Buffer {
  const length = Number(bytes.readBigUInt64LE(0));
  const data = bytes.subarray(8 + length);
  const header = Buffer.from(print(mutateJson(toNode(JSON.parse(bytes.subarray(8, 8 + length).toString())), random)));
  if (random.chance(0.15)) {
    const lengths = [
      0n,
      1n,
      BigInt(header.length - 1),
      BigInt(header.length + 1),
      100_000_000n,
      2n ** 32n,
      2n ** 53n + 1n,
      2n ** 63n,
      2n ** 64n - 1n,
    ];
    return withHeader(header, data, random.pick(lengths.filter((n) => n >= 0n)));
  }
  if (random.chance(0.1)) return withHeader(header, data.subarray(0, random.int(data.length + 1)));
  return withHeader(header, data);
}
