import { readFileSync } from "node:fs";

/** A tensor of a golden file. 16-bit floats are widened to float32, integers keep their type. */
export interface GoldenTensor {
  shape: number[];
  dtype: string;
  data: Float32Array | Float64Array | Int32Array | Uint8Array;
}

/** Reads a whole safetensors file: small, and independent of the library's own reader. */
export function readTensors(path: string): Map<string, GoldenTensor> {
  const bytes = readFileSync(path);
  const headerLength = Number(bytes.readBigUInt64LE(0));
  const header = JSON.parse(bytes.toString("utf8", 8, 8 + headerLength));
  const tensors = new Map<string, GoldenTensor>();
  for (const [name, entry] of Object.entries<{ dtype: string; shape: number[]; data_offsets: [number, number] }>(header)) {
    if (name === "__metadata__") continue;
    const [begin, end] = entry.data_offsets;
    // A copy: typed arrays need their own alignment.
    const copy = new Uint8Array(bytes.subarray(8 + headerLength + begin, 8 + headerLength + end)).buffer;
    tensors.set(name, { shape: entry.shape, dtype: entry.dtype, data: decode(entry.dtype, copy) });
  }
  return tensors;
}

function decode(dtype: string, buffer: ArrayBuffer): GoldenTensor["data"] {
  if (dtype === "F32") return new Float32Array(buffer);
  if (dtype === "F64") return new Float64Array(buffer);
  if (dtype === "I32") return new Int32Array(buffer);
  if (dtype === "I64") return Int32Array.from(new BigInt64Array(buffer), Number);
  if (dtype === "BF16") return Float32Array.from(new Uint16Array(buffer), bfloat16);
  if (dtype === "F16") return Float32Array.from(new Uint16Array(buffer), float16);
  return new Uint8Array(buffer);
}

const word = new DataView(new ArrayBuffer(4));

function bfloat16(bits: number): number {
  word.setUint32(0, bits << 16);
  return word.getFloat32(0);
}

function float16(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Largest distance of two lists; infinite when their lengths differ or a value is not finite. */
export function largestError(got: ArrayLike<number>, want: ArrayLike<number>): number {
  let worst = got.length === want.length ? 0 : Number.POSITIVE_INFINITY;
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i]! - want[i]!);
    if (!(error <= worst)) worst = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
  }
  return worst;
}
