import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { loadAddon } from "../../src/native/load.js";
import { sharedFolder } from "./folder.js";
import { mayBeAbsent, mustBeOk } from "./required.js";
import { findCases, type GoldenLine, runCase } from "./runner.js";

const here = fileURLToPath(new URL(".", import.meta.url));
const cases = join(here, "cases");
const isas = loadAddon().availableIsas();
/** The chat templates of this version; their cases are other people's text and stay outside. */
const TEMPLATES = ["chatml", "smollm2", "llama3", "qwen2_5"];

/** What the command prints for a folder, on one variant of the kernels. Loading the addon fixes the variant, hence a child for all but one. */
async function golden(folder: string, isa: string): Promise<GoldenLine[]> {
  if (isa === isas.at(-1)) {
    const lines: GoldenLine[] = [];
    for (const path of findCases(folder)) lines.push(await runCase(path, { device: "cpu" }));
    return lines;
  }
  const args = ["--import", "tsx", join(here, "main.ts"), folder, "--isa", isa, "--json"];
  const run = promisify(execFile)(process.execPath, args, { maxBuffer: 2 ** 26 });
  // A failed case is exit 1, and its line says why.
  const { stdout } = await run.catch((error: { stdout: string }) => error);
  return stdout
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line));
}

/** Whether a case was skipped for data that is not there. */
function isAbsent({ kind, reason }: GoldenLine): boolean {
  return (
    mayBeAbsent(kind) && (kind === "convert_demo" ? !existsSync(join(sharedFolder(), "data")) : /is absent/.test(reason ?? ""))
  );
}

function expectAllOk(lines: readonly GoldenLine[]): void {
  expect(lines.length).toBeGreaterThan(0);
  const maySkip = (line: GoldenLine) => !mustBeOk(line.kind) && (!mayBeAbsent(line.kind) || isAbsent(line));
  const wrong = lines.filter((line) => !line.ok && !(line.skipped && maySkip(line)));
  expect(wrong).toEqual([]);
}

const groups = readdirSync(cases, { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && entry.name !== "real")
  .map(({ name }) => name);

describe.each(isas.map((isa) => [isa]))("golden data on %s", (isa) => {
  it.each(groups.map((group) => [group]))(
    "%s",
    async (group) => {
      expectAllOk(await golden(join(cases, group), isa));
    },
    600_000,
  );
});

describe(`golden data of a real model on the best variant, ${availableParallelism()} cores`, () => {
  it("real", async () => expectAllOk(await golden(join(cases, "real"), isas.at(-1)!)), 600_000);
});

describe("golden chat templates, where they are present", () => {
  const folder = (template: string) => join(sharedFolder(), "golden", "text", `chat_${template}`);
  it.skipIf(!existsSync(folder("chatml"))).each(TEMPLATES.map((template) => [template]))("%s", async (template) => {
    expectAllOk(await golden(folder(template), isas.at(-1)!));
  });
});
