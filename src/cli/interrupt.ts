import { LowrankError } from "../errors.js";
import { EXIT } from "./exit.js";
import { say } from "./output.js";

/** npm and its kin pass Ctrl-C on to a child that the terminal has told already: the second of two signals so close is the first again. */
const SAME_MS = 200;

/**
 * Runs `body` with a signal that Ctrl-C, SIGTERM and SIGHUP (the terminal is gone) abort; a second Ctrl-C ends the process at once.
 * `notice` is what the first one says. The reason that the signal carries leads to exit code 130.
 */
export async function interruptible<T>(notice: string, body: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const controller = new AbortController();
  let first = 0;
  // Once, and only there: two that came while a step was being enqueued are seen at the same time, however far apart they were.
  let repeats = process.env.npm_config_user_agent !== undefined;
  const stop = (name: NodeJS.Signals) => {
    if (!controller.signal.aborted) {
      first = performance.now();
      // Writing to a terminal that is gone must not end what is to be saved.
      if (name === "SIGHUP") for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
      say(`\n${notice}`);
      controller.abort(new LowrankError("ABORTED", "interrupted"));
    } else if (name === "SIGINT") {
      if (!repeats || performance.now() - first > SAME_MS) process.exit(EXIT.interrupted);
      repeats = false;
    }
  };
  process.on("SIGINT", stop).on("SIGTERM", stop).on("SIGHUP", stop);
  try {
    return await body(controller.signal);
  } finally {
    process.off("SIGINT", stop).off("SIGTERM", stop).off("SIGHUP", stop);
  }
}
