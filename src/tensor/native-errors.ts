import { type ErrorCode, LowrankError } from "../errors.js";
import type { NativeError } from "../native/surface.js";

const CODES: Record<NativeError["code"], ErrorCode> = {
  INVALID: "SHAPE_MISMATCH",
  OUT_OF_MEMORY: "OUT_OF_MEMORY",
  UNSUPPORTED: "UNSUPPORTED",
  DEVICE: "NATIVE",
  DEVICE_LOST: "DEVICE_LOST",
  DISPOSED: "DISPOSED",
};

/** What native code threw, as the package's own error; anything else comes back unchanged. */
export function fromNative(error: unknown): unknown {
  if (!(error instanceof Error) || error instanceof LowrankError) return error;
  const native = error as NativeError;
  const code = CODES[native.code];
  if (code === undefined) return error;
  const details = { op: native.op, ...(native.needed === undefined ? {} : { needed: native.needed, free: native.free }) };
  const hint =
    code === "OUT_OF_MEMORY"
      ? "Use a smaller batch or sequence, gradient checkpointing, or a 4-bit base."
      : code === "DISPOSED"
        ? "A tensor is used after dispose(), or outside the scope that freed it: return it from the scope or retain() it."
        : code === "DEVICE_LOST"
          ? "Start a new process; training goes on from its last checkpoint with --resume."
          : undefined;
  return new LowrankError(code, native.message, { ...(hint ? { hint } : {}), details, cause: error });
}

/** Runs a native call, translating what it throws. */
export function native<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw fromNative(error);
  }
}

/** The same for a promise of native code. */
export function nativeAsync<T>(call: () => Promise<T>): Promise<T> {
  return native(call).catch((error: unknown) => {
    throw fromNative(error);
  });
}
