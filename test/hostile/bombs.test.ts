import { fork } from "node:child_process";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { BOMBS } from "./bombs.js";
import type { Outcome } from "./child.js";

/** Processor seconds and resident bytes above what the process had: the promise, without slack. */
const SECONDS = 1;
const MEGABYTES = 64;

const outcomes = new Map<string, Outcome>();
let ended: unknown;

beforeAll(async () => {
  const child = fork(join(import.meta.dirname, "child.ts"), {
    execArgv: ["--import", "tsx", "--expose-gc", "--max-semi-space-size=4"],
  });
  child.on("message", (outcome: Outcome) => outcomes.set(outcome.name, outcome));
  // A bomb that hangs must fail the test, not stop it.
  const watch = setTimeout(() => child.kill("SIGKILL"), 280_000);
  ended = await new Promise((resolve) => child.on("exit", (code, signal) => resolve(signal ?? code)));
  clearTimeout(watch);
}, 300_000);

describe("every bomb", () => {
  it("leaves the process alive", () => expect(ended).toBe(0));

  it.each(BOMBS.map((bomb) => [bomb.name, bomb] as const))("%s", (name, bomb) => {
    const outcome = outcomes.get(name) ?? { seconds: Number.NaN, bytes: Number.NaN };
    expect(outcome).toMatchObject({ code: bomb.code, message: expect.stringMatching(bomb.message), problems: [] });
    expect(outcome.seconds).toBeLessThan(SECONDS);
    expect(outcome.bytes / 2 ** 20).toBeLessThan(MEGABYTES);
  });
});
