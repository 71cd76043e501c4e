import type { FileHandle } from "node:fs/promises";
import { freemem } from "node:os";
import { basename } from "node:path";
import { LowrankError } from "../errors.js";
import { LIMITS, openFile } from "./input.js";
import { type Json, type JsonObject, parseJsonObject } from "./json.js";

/** Bytes an element of each safetensors dtype takes, in the order of the format's own enumeration. */
export const SAFETENSORS_DTYPES = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E5M2: 1,
  F8_E4M3: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  F64: 8,
  I64: 8,
  U64: 8,
} as const;
export type SafetensorsDType = keyof typeof SAFETENSORS_DTYPES;

export interface TensorInfo {
  readonly dtype: SafetensorsDType;
  readonly shape: readonly number[];
  /** First byte and the byte behind the last one, counted from the start of the file. */
  readonly begin: number;
  readonly end: number;
}

/** Something that holds named tensors: one safetensors file, or a checkpoint of several. */
export interface TensorSource {
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** The tensor's exact bytes in a buffer of their own. */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** Copies `length` bytes, from byte `offset` of the tensor on, to the front of `target`. */
  readInto(name: string, target: Uint8Array, offset: number, length: number): Promise<void>;
  close(): Promise<void>;
}

/** Small tensors are read together up to this many bytes. */
const TOGETHER_BYTES = 1 << 20;
const PICKLE = /\.(bin|pt|pth|ckpt|pkl)$/i;

export class SafetensorsFile implements TensorSource {
  private constructor(
    readonly path: string,
    private readonly handle: FileHandle,
    readonly metadata: Readonly<Record<string, string>>,
    readonly tensors: ReadonlyMap<string, TensorInfo>,
  ) {}

  static async open(path: string): Promise<SafetensorsFile> {
    refusePickle(path);
    const handle = await openFile(path);
    try {
      const { metadata, tensors } = await readHeader(path, handle);
      return new SafetensorsFile(path, handle, metadata, tensors);
    } catch (error) {
      await handle.close();
      throw error;
    }
  }

  /** The entry of a tensor; NOT_FOUND when the file has none of that name. */
  info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (!info)
      throw new LowrankError("NOT_FOUND", `${this.path} has no tensor '${name}'`, { details: { file: this.path, tensor: name } });
    return info;
  }

  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const { begin, end } = this.info(name);
    let bytes: Uint8Array<ArrayBuffer>;
    try {
      bytes = new Uint8Array(end - begin);
    } catch (cause) {
      throw new LowrankError(
        "OUT_OF_MEMORY",
        `tensor '${name}' of ${this.path} has ${end - begin} bytes, more than can be held`,
        {
          details: { needed: end - begin, free: freemem(), file: this.path, tensor: name },
          cause,
        },
      );
    }
    await readFully(this.path, this.handle, bytes, begin);
    return bytes;
  }

  async readInto(name: string, target: Uint8Array, offset: number, length: number): Promise<void> {
    const { begin, end } = this.info(name);
    if (offset < 0 || length < 0 || length > target.byteLength || offset + length > end - begin) {
      throw new LowrankError(
        "INVALID_ARGUMENT",
        `bytes ${offset} to ${offset + length} of '${name}' were asked for, into ${target.byteLength} bytes; the tensor has ${end - begin} bytes`,
      );
    }
    await readFully(this.path, this.handle, target.subarray(0, length), begin + offset);
  }

  /**
   * The tensors of these names in the order of the file, neighbours read together: a file of many small ones takes few reads. The bytes
   * are valid until the next tensor is asked for: one buffer serves them all, since fresh memory costs more than reading does.
   */
  async *readMany(names: readonly string[]): AsyncGenerator<[name: string, bytes: Uint8Array<ArrayBuffer>]> {
    const wanted = names.map((name) => ({ name, ...this.info(name) })).sort((a, b) => a.begin - b.begin);
    const buffer = new Uint8Array(
      Math.min(
        TOGETHER_BYTES,
        wanted.reduce((sum, { begin, end }) => sum + end - begin, 0),
      ),
    );
    for (let first = 0, last = 0; first < wanted.length; first = last) {
      const { begin } = wanted[first]!;
      let end = begin;
      while (last < wanted.length && wanted[last]!.begin === end && wanted[last]!.end - begin <= buffer.length)
        end = wanted[last++]!.end;
      if (last === first) {
        yield [wanted[first]!.name, await this.read(wanted[first]!.name)];
        last++;
        continue;
      }
      await readFully(this.path, this.handle, buffer.subarray(0, end - begin), begin);
      for (const tensor of wanted.slice(first, last))
        yield [tensor.name, buffer.subarray(tensor.begin - begin, tensor.end - begin)];
    }
  }

  close(): Promise<void> {
    return this.handle.close();
  }
}

/** Opens a safetensors file and checks its whole header (format: github.com/huggingface/safetensors). */
export function openSafetensors(path: string): Promise<SafetensorsFile> {
  return SafetensorsFile.open(path);
}

/** Refuses Python pickles by their name: reading one means running the code in it. */
export function refusePickle(path: string): void {
  if (!PICKLE.test(path)) return;
  throw new LowrankError(
    "UNSUPPORTED",
    `${path} is a Python pickle, which can run code when it is read; only safetensors files are read`,
    {
      hint: "Convert it once in Python: safetensors.torch.save_file(torch.load(PATH, weights_only=True), 'model.safetensors').",
      details: { file: path },
    },
  );
}

async function readHeader(path: string, handle: FileHandle) {
  const { size } = await handle.stat();
  if (size < 8) throw invalid(path, `has ${size} bytes, too few for a safetensors file`, { found: size });
  const prefix = new Uint8Array(8);
  await readFully(path, handle, prefix, 0);
  const length = new DataView(prefix.buffer).getBigUint64(0, true);
  const possible = Math.min(LIMITS.header.bytes, size - 8);
  if (length > possible) {
    throw invalid(path, `says its header has ${length} bytes; at most ${possible} are possible in a file of ${size} bytes`, {
      expected: possible,
      found: String(length),
    });
  }
  const header = new Uint8Array(Number(length));
  await readFully(path, handle, header, 8);
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(header);
  } catch (cause) {
    throw invalid(path, "has a header that is not UTF-8 text", {}, cause);
  }
  if (text[0] !== "{") throw invalid(path, "has a header that does not begin with '{'", {});
  return parseHeader(path, parseJsonObject(text, `the header of ${path}`, LIMITS.header), 8 + header.length, size);
}

function parseHeader(path: string, header: JsonObject, dataBegin: number, size: number) {
  const metadata: Record<string, string> = Object.create(null);
  const tensors = new Map<string, TensorInfo>();
  const count = Object.keys(header).length;
  if (count > LIMITS.tensors + 1)
    throw invalid(path, `lists ${count} tensors; at most ${LIMITS.tensors} can be read`, {
      expected: LIMITS.tensors,
      found: count,
    });
  for (const [name, entry] of Object.entries(header)) {
    if (name === "__metadata__") readMetadata(path, entry, metadata);
    else tensors.set(name, parseEntry(path, name, entry, dataBegin, size));
  }
  const byPosition = [...tensors].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let at = dataBegin;
  for (const [name, { begin, end }] of byPosition) {
    if (begin !== at) {
      const what = begin < at ? "overlaps the tensor before it" : "leaves a hole before it";
      throw invalid(
        path,
        `holds tensor '${name}' that ${what}: expected it to begin at byte ${at - dataBegin}, found ${begin - dataBegin}`,
        {
          tensor: name,
          expected: at - dataBegin,
          found: begin - dataBegin,
        },
      );
    }
    at = end;
  }
  if (at !== size) {
    throw invalid(path, `holds ${size - dataBegin} bytes of data, its tensors take ${at - dataBegin}`, {
      expected: at - dataBegin,
      found: size - dataBegin,
    });
  }
  return { metadata, tensors };
}

function readMetadata(path: string, entry: Json, metadata: Record<string, string>): void {
  if (!isObject(entry)) throw invalid(path, "has a __metadata__ that is not an object", {});
  for (const [key, value] of Object.entries(entry)) {
    if (typeof value !== "string") throw invalid(path, `has a __metadata__ value of '${key}' that is not text`, { key });
    metadata[key] = value;
  }
}

function parseEntry(path: string, name: string, entry: Json, dataBegin: number, size: number): TensorInfo {
  const bad = (what: string, expected: unknown, found: unknown) =>
    invalid(path, `is wrong at tensor '${name}': ${what}: expected ${expected}, found ${short(found)}`, {
      tensor: name,
      expected,
      found,
    });
  if (!isObject(entry)) throw bad("bad header entry", "an object", entry);
  const { dtype, shape, data_offsets: offsets } = entry;
  if (typeof dtype !== "string" || !Object.hasOwn(SAFETENSORS_DTYPES, dtype)) {
    throw bad("unknown dtype", Object.keys(SAFETENSORS_DTYPES).join(", "), dtype);
  }
  if (!isCounts(shape)) throw bad("bad shape", "a list of integers from 0 on", shape);
  if (!isCounts(offsets) || offsets.length !== 2) throw bad("bad data_offsets", "two integers from 0 on", offsets);
  const [begin, end] = offsets as [number, number];
  const available = size - dataBegin;
  if (begin > end || end > available) {
    const what = end > available ? "data outside the file (is the file cut short?)" : "data that ends before it begins";
    throw bad(what, `0 ≤ begin ≤ end ≤ ${available}`, offsets);
  }
  // A zero in the shape makes the rest irrelevant, and stops the product from growing without bound.
  const elements = shape.includes(0) ? 0 : shape.reduce((product, n) => product * n, 1);
  const bytes = elements * SAFETENSORS_DTYPES[dtype as SafetensorsDType];
  if (bytes !== end - begin)
    throw bad(`${dtype} [${shape.slice(0, 8)}] and its offsets disagree`, `${bytes} bytes`, `${end - begin} bytes`);
  return { dtype: dtype as SafetensorsDType, shape, begin: begin + dataBegin, end: end + dataBegin };
}

/** Reads until `target` is full: one call may return less, and at most 2 GiB. */
async function readFully(path: string, handle: FileHandle, target: Uint8Array, position: number): Promise<void> {
  const PART = 1 << 28;
  for (let done = 0; done < target.byteLength; ) {
    const { bytesRead } = await handle.read(target, done, Math.min(PART, target.byteLength - done), position + done);
    if (bytesRead === 0)
      throw invalid(path, `ended at byte ${position + done} while it was read`, {
        expected: position + target.byteLength,
        found: position + done,
      });
    done += bytesRead;
  }
}

function invalid(path: string, what: string, details: Record<string, unknown>, cause?: unknown): LowrankError {
  return new LowrankError("INVALID_FILE", `${path} ${what}`, {
    hint: `${basename(path)} is damaged or incomplete: download or write it again.`,
    details: { file: path, ...details },
    cause,
  });
}

const isObject = (value: Json | undefined): value is JsonObject =>
  value !== null && typeof value === "object" && !Array.isArray(value);
const isCounts = (value: Json | undefined): value is number[] =>
  Array.isArray(value) && value.every((n) => typeof n === "number" && Number.isSafeInteger(n) && n >= 0);
const short = (value: unknown) => {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "nothing");
  return text.length > 80 ? `${text.slice(0, 77)}...` : text;
};
