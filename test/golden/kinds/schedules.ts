import { createSchedule, type ScheduleOptions, warmupSteps } from "../../../src/optim/schedules.js";
import type { GoldenHandler } from "../types.js";

const schedule: GoldenHandler = async ({ spec }) => {
  const { relative, absolute } = spec.tolerance;
  const problems: string[] = [];
  let maxError = 0;
  for (const entry of spec.entries as (ScheduleOptions & { lr: number[] })[]) {
    const rate = createSchedule(entry);
    for (const [step, expected] of entry.lr.entries()) {
      const error = Math.abs(rate(step) - expected);
      maxError = Math.max(maxError, error <= absolute ? 0 : error / Math.abs(expected));
      if (error <= absolute + relative * Math.abs(expected)) continue;
      problems.push(
        `${entry.type} ${entry.warmupSteps}/${entry.totalSteps} ${JSON.stringify(entry.kwargs)} step ${step}: ${rate(step)}, expected ${expected}`,
      );
      break;
    }
  }
  for (const { totalSteps, ratio, warmupSteps: expected } of spec.warmupRounding) {
    const found = warmupSteps(ratio, totalSteps);
    if (found !== expected) problems.push(`warm-up of ${ratio} × ${totalSteps}: ${found}, expected ${expected}`);
  }
  return { ok: problems.length === 0, maxError, ...(problems.length > 0 ? { reason: problems.slice(0, 10).join("; ") } : {}) };
};

export const scheduleHandlers: Record<string, GoldenHandler> = { schedule };
