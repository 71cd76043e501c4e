import { existsSync } from "node:fs";
import { basename } from "node:path";
import { describe, expect, it } from "vitest";
import { goldenFolder } from "../golden/folder.js";
import { findCases, runCase } from "../golden/runner.js";

/** Cases whose family this version does not run. */
const OTHER_FAMILIES = ["gemma2", "mistral", "packed_mistral", "phi3", "qwen3"];

for (const group of ["models", "real"]) {
  const folder = goldenFolder(group);
  const cases = existsSync(folder) ? findCases(folder).filter((path) => !basename(path).startsWith("sft_")) : [];
  describe.skipIf(cases.length === 0)(`golden/${group}`, () => {
    it.for(cases.map((path) => [basename(path), path] as const))("%s", async ([name, path], { skip }) => {
      const line = await runCase(path, { device: "cpu" });
      if (OTHER_FAMILIES.includes(name)) expect(line.reason).toMatch(/^model_type '\w+' is not supported yet$/);
      else if (line.skipped && group === "real") skip(line.reason ?? "");
      else expect(line).toMatchObject({ ok: true, reason: null });
    });
  });
}
