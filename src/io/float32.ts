import { LowrankError } from "../errors.js";
import { bfloat16ToFloat32, float16ToFloat32 } from "../half.js";
import type { TensorSource } from "./safetensors.js";

/** A floating-point tensor of a file as float32, whatever dtype it is stored in. Throws INVALID_FILE for other dtypes. */
export async function readFloat32(source: TensorSource, name: string): Promise<Float32Array> {
  const dtype = source.tensors.get(name)?.dtype;
  const { buffer } = await source.read(name);
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer);
    case "F64":
      return Float32Array.from(new Float64Array(buffer));
    case "BF16":
      return bfloat16ToFloat32(new Uint16Array(buffer));
    case "F16":
      return float16ToFloat32(new Uint16Array(buffer));
    default:
      throw new LowrankError("INVALID_FILE", `tensor '${name}' is ${dtype}, expected a floating-point dtype`, {
        details: { tensor: name },
      });
  }
}
