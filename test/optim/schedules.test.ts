import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { createSchedule, scheduleProblems } from "../../src/optim/schedules.js";
import { goldenFolder } from "../golden/folder.js";
import { scheduleHandlers } from "../golden/kinds/schedules.js";

describe("schedules", () => {
  it("equal transformers.get_scheduler, past the end too", async () => {
    const dir = join(goldenFolder("train"), "schedules");
    if (!existsSync(dir)) return console.warn("not checked: golden train/schedules is absent");
    const spec = JSON.parse(readFileSync(join(dir, "case.json"), "utf8"));
    expect(await scheduleHandlers.schedule!({ dir, name: "schedules", spec, options: { device: "cpu" } })).toMatchObject({
      ok: true,
    });
  });

  it("has no undefined value where transformers divides by zero", () => {
    const rate = createSchedule({ type: "polynomial", totalSteps: 5, warmupSteps: 5, baseLr: 1, kwargs: { lr_end: 0.25 } });
    expect([0, 4, 5, 6].map(rate)).toEqual([0, 0.8, 0.25, 0.25]);
  });

  it("lists wrong options", () => {
    const base = { baseLr: 1e-4 };
    expect(scheduleProblems({ ...base, type: "cosine", kwargs: { num_cycle: 2 } })).toEqual([
      "lr_scheduler_kwargs: cosine has no option 'num_cycle'; did you mean 'num_cycles'?",
    ]);
    expect(scheduleProblems({ ...base, type: "cosine_with_min_lr" })).toHaveLength(1);
    expect(
      scheduleProblems({ ...base, type: "warmup_stable_decay", kwargs: { decay_type: "x", min_lr_ratio: "a" } }),
    ).toHaveLength(3);
    expect(scheduleProblems({ ...base, type: "polynomial", kwargs: { lr_end: 1 } })).toHaveLength(1);
    expect(scheduleProblems({ ...base, type: "linear" })).toEqual([]);
    expect(() => createSchedule({ ...base, type: "linear", totalSteps: 1, warmupSteps: 0, kwargs: { a: 1 } })).toThrow(
      /no option 'a'/,
    );
  });
});
