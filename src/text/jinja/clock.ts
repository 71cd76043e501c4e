import { readFileSync } from "node:fs";

/** Newer versions of Node read this clock themselves. */
type WithThreadClock = { threadCpuUsage?: () => { user: number; system: number } };

/**
 * Milliseconds this thread has spent on a processor: what a rendering costs, however busy the machine is. Where the system
 * does not tell, the clock on the wall.
 */
export function threadMilliseconds(): number {
  const usage = (process as WithThreadClock).threadCpuUsage?.();
  if (usage) return (usage.user + usage.system) / 1000;
  try {
    // Nanoseconds on the processor come first.
    return Number.parseInt(readFileSync("/proc/thread-self/schedstat", "latin1"), 10) / 1e6;
  } catch {
    return performance.now();
  }
}
