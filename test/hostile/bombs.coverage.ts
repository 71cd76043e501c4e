/** The bombs in this process, where coverage sees them: what is refused, and how. Time and memory are measured by bombs.test.ts. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { BOMBS } from "./bombs.js";

it.each(BOMBS.map((bomb) => [bomb.name, bomb] as const))("%s", async (_, bomb) => {
  const root = mkdtempSync(join(tmpdir(), "lowrank-bomb-"));
  const folder = join(root, "folder");
  mkdirSync(folder);
  bomb.write(folder);
  const error = await bomb.open(folder).catch((reason: unknown) => reason);
  rmSync(root, { recursive: true });
  expect(error).toBeInstanceOf(LowrankError);
  expect(error).toMatchObject({ code: bomb.code, message: expect.stringMatching(bomb.message) });
});
