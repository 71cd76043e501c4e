import { afterEach, expect, it } from "vitest";
import { threadMilliseconds } from "../../../src/text/jinja/clock.js";

const node = process as { threadCpuUsage?: unknown };
const own = Object.getOwnPropertyDescriptor(node, "threadCpuUsage");
afterEach(() => {
  if (own) Object.defineProperty(node, "threadCpuUsage", own);
  else delete node.threadCpuUsage;
});

it("asks Node where it knows the time of a thread, and the system where it does not", () => {
  node.threadCpuUsage = () => ({ user: 1500, system: 500 });
  expect(threadMilliseconds()).toBe(2);
  node.threadCpuUsage = undefined;
  const before = threadMilliseconds();
  for (const end = performance.now() + 20; performance.now() < end; );
  expect(threadMilliseconds()).toBeGreaterThan(before);
});
