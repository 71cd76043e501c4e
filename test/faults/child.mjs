/** Works or checks on request, one JSON line each: {act, scenario, dir, at, announced}. */
import { cpSync, existsSync, mkdirSync } from "node:fs";
import { readlink } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { LowrankError, scenarios } from "./workload.mjs";

const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);
const prepare = (dir, at) => (existsSync(join(at, "before")) ? cpSync(join(at, "before"), dir, { recursive: true }) : mkdirSync(dir));

async function answer({ act, scenario, dir, at, announced }) {
  const { reference, warmUp, work, check } = scenarios[scenario];
  switch (act) {
    case "reference":
      return reference(at);
    case "prepare":
      return prepare(dir, at);
    // What is loaded late is loaded before anything is counted.
    case "warm up":
      return warmUp();
    case "work":
      return work(dir, (text) => say({ announced: text }));
    case "check":
      return check(dir, at, announced);
  }
}

// With one thread in the pool, this names the thread that does all asynchronous file calls.
say({ ready: { main: process.pid, pool: Number((await readlink("/proc/thread-self")).split("/").at(-1)) } });
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  try {
    await answer(request);
    say({ done: request.act });
  } catch (error) {
    say({ failed: request.act, typed: error instanceof LowrankError, code: error?.code, message: `${error?.stack ?? error}` });
  }
}
