import { escapeControls } from "../data/escape.js";
import { LowrankError } from "../errors.js";

/** Exit codes of the command line (documented in docs/cli.md). */
export const EXIT = { ok: 0, failed: 1, usage: 2, deviceAbsent: 3, outOfMemory: 4, interrupted: 130 } as const;

/** The exit code an error ends the process with. */
export function exitCodeOf(error: unknown): number {
  if (!(error instanceof LowrankError)) return EXIT.failed;
  switch (error.code) {
    case "INVALID_CONFIG":
    case "INVALID_ARGUMENT":
    case "TEMPLATE":
      return EXIT.usage;
    case "DEVICE_NOT_FOUND":
      return EXIT.deviceAbsent;
    case "OUT_OF_MEMORY":
      return EXIT.outOfMemory;
    case "ABORTED":
      return EXIT.interrupted;
    default:
      return EXIT.failed;
  }
}

/** The sentence a person reads: what is wrong, and the remedy on a line of its own. Unexpected errors keep their stack. What came from data or files cannot drive the terminal. */
export function describeError(error: unknown): string {
  return escapeControls(textOf(error));
}

function textOf(error: unknown): string {
  if (error instanceof LowrankError) return error.hint === undefined ? error.message : `${error.message}\n  → ${error.hint}`;
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
