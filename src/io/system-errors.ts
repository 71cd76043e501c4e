import { LowrankError } from "../errors.js";
import { freeBytes, noSpace } from "./space.js";

/** Runs what reads `path`; whatever the system refuses becomes CHECKPOINT. */
export const reading = <T>(path: string, body: () => Promise<T>): Promise<T> => typed(path, "read", undefined, body);

/** Runs what writes to `path`; whatever the system refuses becomes NO_SPACE (with `needed` and free bytes) or CHECKPOINT. */
export const writing = <T>(path: string, body: () => Promise<T>, needed?: number): Promise<T> =>
  typed(path, "written", needed, body);

async function typed<T>(path: string, done: "read" | "written", needed: number | undefined, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (error) {
    const { code, syscall, message } = error as NodeJS.ErrnoException;
    if (error instanceof LowrankError || syscall === undefined) throw error;
    if (code === "ENOSPC" || code === "EDQUOT") throw noSpace(path, needed, await freeBytes(path).catch(() => undefined), error);
    throw new LowrankError("CHECKPOINT", `${path} cannot be ${done}: ${message}`, {
      hint: "Check that the folder exists, is yours and that its disk works.",
      details: { path, errno: code },
      cause: error,
    });
  }
}
