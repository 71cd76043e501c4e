import { LowrankError } from "../errors.js";
import { freeBytes, noSpace } from "./space.js";

/** Runs what writes to `path`; whatever the system refuses becomes NO_SPACE (with `needed` and free bytes) or CHECKPOINT. */
export async function writing<T>(path: string, body: () => Promise<T>, needed?: number): Promise<T> {
  try {
    return await body();
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    if (error instanceof LowrankError || syscall === undefined) throw error;
    if (code === "ENOSPC" || code === "EDQUOT") throw noSpace(path, needed, await freeBytes(path).catch(() => undefined), error);
    throw new LowrankError("CHECKPOINT", `${path} cannot be written: ${message}`, {
      hint: "Check that the folder exists, is yours to write and that its disk works.",
      details: { path, errno: code },
      cause: error,
    });
  }
}
