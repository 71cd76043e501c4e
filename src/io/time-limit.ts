import { type Context, createContext, Script } from "node:vm";
import type { LowrankError } from "../errors.js";

const script = new Script("body()");
let context: Context | undefined;

/**
 * The result of a body that may run for ever because a file says so, such as a regular expression that backtracks; stopped after
 * `milliseconds`, also in the middle of a match. Costs about 0.1 ms.
 */
export function withinTime<T>(milliseconds: number, body: () => T, tooLong: () => LowrankError): T {
  context ??= createContext({});
  const outer = context.body;
  context.body = body;
  try {
    return script.runInContext(context, { timeout: Math.ceil(milliseconds) }) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException | undefined)?.code === "ERR_SCRIPT_EXECUTION_TIMEOUT") throw tooLong();
    throw error;
  } finally {
    context.body = outer;
  }
}
