import { type Context, createContext, Script } from "node:vm";
import type { LowrankError } from "../errors.js";

const script = new Script("body()");
let context: Context | undefined;

/**
 * The result of a body that may run for ever because a file says so, such as a regular expression that backtracks; stopped after
 * `milliseconds`, also in the middle of a match. On a busy machine, where the process got less than half of that time, the body is
 * run again with more: it must be one that can be. Costs about 0.1 ms.
 */
export function withinTime<T>(milliseconds: number, body: () => T, tooLong: () => LowrankError): T {
  context ??= createContext({});
  const outer = context.body;
  context.body = body;
  try {
    for (let limit = Math.ceil(milliseconds); ; limit *= 2) {
      const before = process.cpuUsage();
      try {
        return script.runInContext(context, { timeout: limit }) as T;
      } catch (error) {
        if ((error as NodeJS.ErrnoException | undefined)?.code !== "ERR_SCRIPT_EXECUTION_TIMEOUT") throw error;
        const { user, system } = process.cpuUsage(before);
        if ((user + system) / 1000 >= milliseconds / 2 || limit > milliseconds * 100) throw tooLong();
      }
    }
  } finally {
    context.body = outer;
  }
}
