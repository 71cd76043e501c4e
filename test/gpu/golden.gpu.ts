/** Every golden case on the device under test, a test each. */
import { join } from "node:path";
import { it } from "vitest";
import { findCases, runCase } from "../golden/runner.js";

const device = process.env.LOWRANK_TEST_DEVICES ?? "emu";
/** The emulated device takes minutes for a model that generates. */
const TIME = device === "emu" ? 3_600_000 : 300_000;
const folder = join(import.meta.dirname, "../golden/cases");

for (const path of findCases(folder))
  it(
    path.slice(folder.length + 1),
    async ({ skip }) => {
      const { ok, skipped, reason } = await runCase(path, { device });
      skip(skipped === true, reason ?? "");
      if (!ok) throw new Error(reason ?? "wrong");
    },
    TIME,
  );
