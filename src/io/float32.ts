import { LowrankError } from "../errors.js";
import { bfloat16ToFloat32, float16ToFloat32 } from "../half.js";
import type { SafetensorsDType, TensorSource } from "./safetensors.js";

/** A floating-point tensor of a file as float32, whatever dtype it is stored in. Throws INVALID_FILE for other dtypes. */
export async function readFloat32(source: TensorSource, name: string): Promise<Float32Array> {
  return toFloat32(await source.read(name), source.tensors.get(name)?.dtype, name);
}

/** The same for bytes that were read already. */
export function toFloat32(bytes: Uint8Array, dtype: SafetensorsDType | undefined, name: string): Float32Array {
  // Typed arrays need their own alignment.
  const { buffer, byteOffset } = bytes.byteOffset % 8 === 0 ? bytes : bytes.slice();
  const { byteLength } = bytes;
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer, byteOffset, byteLength / 4);
    case "F64":
      return Float32Array.from(new Float64Array(buffer, byteOffset, byteLength / 8));
    case "BF16":
      return bfloat16ToFloat32(new Uint16Array(buffer, byteOffset, byteLength / 2));
    case "F16":
      return float16ToFloat32(new Uint16Array(buffer, byteOffset, byteLength / 2));
    default:
      throw new LowrankError("INVALID_FILE", `tensor '${name}' is ${dtype}, expected a floating-point dtype`, {
        details: { tensor: name },
      });
  }
}
