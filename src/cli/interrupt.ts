import { LowrankError } from "../errors.js";
import { EXIT } from "./exit.js";
import { say } from "./output.js";

/**
 * Runs `body` with a signal that Ctrl-C and SIGTERM abort; a second Ctrl-C ends the process at once. `notice` is what the first one
 * says. The reason that the signal carries leads to exit code 130.
 */
export async function interruptible<T>(notice: string, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  const stop = () => {
    if (controller.signal.aborted) process.exit(EXIT.interrupted);
    say(`\n${notice}`);
    controller.abort(new LowrankError("ABORTED", "interrupted"));
  };
  process.on("SIGINT", stop).on("SIGTERM", stop);
  try {
    return await body(controller.signal);
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop);
  }
}
