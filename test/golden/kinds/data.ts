import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type ConvertedRow, convertRows } from "../../../src/data/convert.js";
import {
  checkAttr,
  type DatasetAttr,
  datasetAttr,
  findDataset,
  readRegistry,
  type Stage,
} from "../../../src/data/dataset-info.js";
import { readRows } from "../../../src/data/readers.js";
import { LowrankError } from "../../../src/errors.js";
import { type GoldenCase, type GoldenHandler, type GoldenOutcome, skipped } from "../types.js";
import { Differences } from "./text.js";

const ATTR_KEYS = [
  "formatting",
  "ranking",
  "subset",
  "split",
  "folder",
  "num_samples",
  "prompt",
  "query",
  "response",
  "history",
  "messages",
  "system",
];
ATTR_KEYS.push(
  "tools",
  "chosen",
  "rejected",
  "kto_tag",
  "role_tag",
  "content_tag",
  "user_tag",
  "assistant_tag",
  "observation_tag",
  "function_tag",
  "system_tag",
);

const ordered = (attr: object) => ATTR_KEYS.map((key) => [key, (attr as Record<string, unknown>)[key]]);
const canonical = (row: ConvertedRow) => {
  const turns = (list: ConvertedRow["_prompt"]) => list.map(({ role, content }) => ({ role, content }));
  return JSON.stringify({
    _prompt: turns(row._prompt),
    _response: turns(row._response),
    _system: row._system,
    _tools: row._tools,
  });
};

async function convertCase(c: GoldenCase): Promise<GoldenOutcome> {
  const { spec } = c;
  const registry = await readRegistry(c.dir);
  const name = Object.hasOwn(registry, spec.dataset) ? spec.dataset : Object.keys(registry)[0];
  const diff = new Differences(spec.rows?.length);
  let rows: ConvertedRow[];
  try {
    const attr = datasetAttr(registry[name] as Record<string, unknown>);
    if (spec.attr) diff.check("attr", ordered(attr), ordered(spec.attr));
    checkAttr(name, attr, attr.ranking ? "dpo" : "sft");
    rows = convertRows(await readRows(join(c.dir, spec.file)), attr, name);
  } catch (error) {
    if (!(error instanceof LowrankError)) throw error;
    if (!spec.error) diff.fail(`refused: ${error.message}`);
    return diff.outcome();
  }
  if (spec.error) diff.fail(`accepted, expected an error: ${spec.error.message}`);
  diff.check("number of rows", rows.length, spec.rows?.length);
  for (const [i, row] of rows.entries())
    diff.check(`row ${i}`, canonical(row), canonical(spec.rows?.[i]?.plain ?? spec.rows?.[i] ?? { _prompt: [], _response: [] }));
  return diff.outcome();
}

async function convertDemo(c: GoldenCase): Promise<GoldenOutcome> {
  const { spec } = c;
  const attr: DatasetAttr = datasetAttr(spec.info);
  const path = await findBeside(c.dir, join("data", spec.file));
  if (!path) return skipped(`the data file ${spec.file} is not here`);
  const rows = convertRows(await readRows(path), attr, spec.dataset);
  const diff = new Differences(spec.rows.length);
  diff.check("attr", ordered(attr), ordered(spec.attr));
  diff.check("rowCount", rows.length, spec.rowCount);
  const sha = (text: string) => createHash("sha256").update(text).digest("hex");
  for (const r of spec.rows) diff.check(`row ${r.index}`, sha(canonical(rows[r.index]!)), r.sha256);
  diff.check("all rows", sha(rows.map((row) => `${canonical(row)}\n`).join("")), spec.sha256OfAllRows);
  return diff.outcome();
}

/** Looks for a file in the folders above the case: data sets lie beside the golden folder. */
async function findBeside(dir: string, file: string): Promise<string | undefined> {
  for (let up = 0, at = dir; up < 9; up++, at = join(at, "..")) {
    for (const path of [join(at, file), join(at, "shared", file)]) {
      if (
        await readFile(path).then(
          () => true,
          () => false,
        )
      )
        return path;
    }
  }
  return undefined;
}

async function convertErrors(c: GoldenCase): Promise<GoldenOutcome> {
  const { spec } = c;
  const folder = await mkdtemp(join(tmpdir(), "convert-errors-"));
  const diff = new Differences(spec.checks.length);
  try {
    for (const [name, content] of Object.entries(spec.files))
      await writeFile(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
    for (const check of spec.checks) {
      try {
        const found = await findDataset(spec.info, check.dataset, folder, check.stage as Stage);
        const rows = convertRows(await readRows(found.path), found.attr, found.name);
        diff.check(check.why, rows.length, check.rows);
      } catch (error) {
        if (!(error instanceof LowrankError)) throw error;
        if (!check.error) diff.fail(`${check.why}: refused: ${error.message}`);
      }
    }
  } finally {
    await rm(folder, { recursive: true });
  }
  return diff.outcome();
}

const later = (what: string) => async () => skipped(`${what} is not done yet`);

export const handlers: Record<string, GoldenHandler> = {
  convert: convertCase,
  convert_demo: convertDemo,
  convert_errors: convertErrors,
  supervised: later("LLaMA-Factory's own templates and turn-wise truncation"),
  unsupervised: later("LLaMA-Factory's own templates"),
  pairwise: later("LLaMA-Factory's preference rows"),
  feedback: later("LLaMA-Factory's KTO rows"),
  pretrain: later("LLaMA-Factory's pre-training blocks"),
  knapsack: later("LLaMA-Factory's knapsack packing"),
  mix: later("mixing data sets"),
  split: later("numpy's random permutation"),
  sample: later("numpy's random permutation"),
};
