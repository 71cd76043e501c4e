import type { ChildProcess } from "node:child_process";
import { defineConfig } from "vitest/config";
import { ForksPoolWorker } from "vitest/node";
import base from "./vitest.config.js";

// A process that a signal ends writes no counts of gcov. vitest ends its workers by SIGTERM, which may also meet one that is at its end
// already and has no handler any more, so that this is cut short too.
const END_BY_EXIT = 'data:text/javascript,for(const end of["SIGTERM","exit"])process.once(end,()=>process.reallyExit())';

/** Ends when it has written its counts: vitest would kill it half a second after it asked. */
class CountingWorker extends ForksPoolWorker {
  override async start(): Promise<void> {
    await super.start();
    const { _fork: fork } = this as unknown as { _fork: ChildProcess };
    const kill = fork.kill.bind(fork);
    fork.kill = (signal = "SIGTERM") => signal !== "SIGKILL" && kill(signal);
  }
}

export default defineConfig({
  ...base,
  test: {
    ...base.test,
    execArgv: [`--import=${END_BY_EXIT}`],
    pool: { name: "counting-forks", createPoolWorker: (options) => new CountingWorker(options) },
  },
});
