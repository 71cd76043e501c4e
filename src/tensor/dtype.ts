import { LowrankError } from "../errors.js";
import { NATIVE_DTYPES } from "../native/surface.js";

/** Element types of tensors. */
export type DType = (typeof NATIVE_DTYPES)[number];

export type TypedArray = Float32Array | Uint16Array | Int32Array | Uint8Array;

/** Bytes of one element. */
export const DTYPE_BYTES: Readonly<Record<DType, number>> = { float32: 4, bfloat16: 2, float16: 2, int32: 4, uint8: 1 };

/** The number native code knows a dtype by. */
export function dtypeNumber(dtype: DType): number {
  const index = NATIVE_DTYPES.indexOf(dtype);
  if (index < 0) {
    throw new LowrankError("INVALID_ARGUMENT", `'${String(dtype)}' is no dtype`, {
      hint: `Use one of ${NATIVE_DTYPES.join(", ")}.`,
    });
  }
  return index;
}

/** The bytes as the typed array of the dtype; bfloat16 and float16 as their bits in a Uint16Array. */
export function typedArrayOf(dtype: DType, buffer: ArrayBuffer): TypedArray {
  switch (dtype) {
    case "float32":
      return new Float32Array(buffer);
    case "int32":
      return new Int32Array(buffer);
    case "uint8":
      return new Uint8Array(buffer);
    default:
      return new Uint16Array(buffer);
  }
}
