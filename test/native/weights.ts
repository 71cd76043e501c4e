import type { WeightHandle } from "../../src/native/surface.js";
import { type Matrix, matrix } from "../reference/linear.js";
import { gaussian, uniform } from "../reference/numeric.js";
import { addon, type Raw } from "./raw.js";

export const weightKinds = ["float32", "bfloat16", "float16", "4bit", "4bit rounded", "4bit nested"] as const;
export type WeightKind = (typeof weightKinds)[number];

export interface TestWeight {
  /** What the stored bytes mean. */
  values: Matrix;
  handle: WeightHandle;
}

/** A random weight of n x k on the device; 4-bit ones take any code, table and absmax, so that nothing hides in a code book. */
export function randomWeight(raw: Raw, kind: WeightKind, n: number, k: number, seed: number, blocksize = 64): TestWeight {
  const count = n * k;
  if (kind === "float32") {
    const data = gaussian(count, seed);
    return { values: matrix(n, k, data), handle: addon.weightDense(raw.from(data, [n, k])) };
  }
  if (kind === "bfloat16" || kind === "float16") {
    const data = Uint16Array.from(gaussian(count, seed), kind === "bfloat16" ? bfloat16Bits : float16Bits);
    return {
      values: matrix(n, k, Array.from(data, kind === "bfloat16" ? fromBfloat16 : fromFloat16)),
      handle: addon.weightDense(raw.from(data, [n, k], kind)),
    };
  }
  const next = uniform(seed);
  const codes = Uint8Array.from({ length: Math.ceil(count / 2) }, () => Math.floor(256 * next()));
  const table = gaussian(16, seed + 1);
  const blocks = Math.ceil(count / blocksize);
  let absmax = gaussian(blocks, seed + 2);
  const t = {
    codes: raw.from(codes, [codes.length]),
    table: raw.from(table, [16]),
    absmax: 0,
    nested: 0,
    nestedCode: 0,
    offset: 0,
  };
  if (kind === "4bit nested") {
    const [bytes, map, scales, offset] = [
      codes.slice(0, blocks),
      gaussian(256, seed + 3),
      gaussian(Math.ceil(blocks / 256), seed + 4),
      Math.fround(0.7),
    ] as const;
    absmax = Float32Array.from(
      bytes,
      (b, i) => Math.fround((map[b] as number) * (scales[Math.floor(i / 256)] as number)) + offset,
    );
    t.absmax = raw.from(bytes, [blocks]);
    t.nested = raw.from(scales, [scales.length]);
    t.nestedCode = raw.from(map, [256]);
    t.offset = raw.from([offset], [1]);
  } else t.absmax = raw.from(absmax, [blocks]);
  const round = kind === "4bit rounded";
  const values = matrix(n, k);
  for (let i = 0; i < count; i++) {
    const byte = codes[i >> 1] as number;
    const value = Math.fround((table[i & 1 ? byte & 15 : byte >> 4] as number) * (absmax[Math.floor(i / blocksize)] as number));
    values.at[i] = round ? fromBfloat16(bfloat16Bits(value)) : value;
  }
  return {
    values,
    handle: addon.weight4bit(t.codes, t.absmax, t.nested, t.nestedCode, t.offset, t.table, n, k, blocksize, 256, round ? 1 : 0),
  };
}

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

export function bfloat16Bits(x: number): number {
  float[0] = x;
  const u = word[0] as number;
  return (u + 0x7fff + ((u >>> 16) & 1)) >>> 16;
}
export function fromBfloat16(bits: number): number {
  word[0] = bits << 16;
  return float[0] as number;
}
/** Truncates; for |x| below 65504. */
function float16Bits(x: number): number {
  const magnitude = Math.abs(x);
  const sign = x < 0 ? 0x8000 : 0;
  if (magnitude < 2 ** -14) return sign | Math.floor(magnitude * 2 ** 24);
  const exponent = Math.floor(Math.log2(magnitude));
  return sign | ((exponent + 15) << 10) | Math.floor((magnitude / 2 ** exponent - 1) * 1024);
}
function fromFloat16(bits: number): number {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  return (bits & 0x8000 ? -1 : 1) * (exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15));
}
