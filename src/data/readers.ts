import { createReadStream } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { extname, join } from "node:path";
import { CsvError, parse as parseCsv } from "csv-parse/sync";
import { LowrankError } from "../errors.js";
import { parseJson } from "./json.js";

/** A row of a data set as it stands in the file. */
export type Row = Record<string, unknown>;

/** File types LLaMA-Factory reads; arrow and parquet are known but not read here. */
const TYPES = [".json", ".jsonl", ".csv", ".txt"] as const;
const MAX_WHOLE_FILE = 400 * 1024 * 1024;
const MAX_LINE = 64 * 1024 * 1024;

const bad = (path: string, what: string, hint?: string) =>
  new LowrankError("DATASET", `${path}: ${what}`, { ...(hint ? { hint } : {}), details: { path } });

function isRow(value: unknown): value is Row {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Number);
}

/** Lines of a file without their ends (\n, \r\n or \r); a last line end opens no further line. */
async function* lines(path: string): AsyncGenerator<string> {
  let rest = "";
  for await (const chunk of createReadStream(path, { encoding: "utf8", highWaterMark: 1 << 20 })) {
    const parts = (rest + chunk).split(/\r\n|\n|\r(?!$)/);
    rest = parts.pop()!;
    yield* parts;
    if (rest.length > MAX_LINE) throw bad(path, `a line is longer than ${MAX_LINE >> 20} MiB`);
  }
  if (rest.endsWith("\r")) rest = rest.slice(0, -1);
  else if (rest === "") return;
  yield rest;
}

async function readText(path: string): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const text of lines(path)) rows.push({ text });
  return rows;
}

async function readJsonLines(path: string): Promise<Row[]> {
  const rows: Row[] = [];
  let number = 0;
  for await (const line of lines(path)) {
    number++;
    const text = number === 1 ? line.replace(/^\uFEFF/, "") : line;
    if (text.trim() === "") continue;
    let value: unknown;
    try {
      value = parseJson(text);
    } catch (cause) {
      throw bad(path, `line ${number} is not valid JSON: ${(cause as Error).message}`);
    }
    if (!isRow(value)) throw bad(path, `line ${number} must be a JSON object`);
    rows.push(value);
  }
  return rows;
}

async function readJson(path: string): Promise<Row[]> {
  const { size } = await stat(path);
  if (size > MAX_WHOLE_FILE) throw bad(path, `is larger than ${MAX_WHOLE_FILE >> 20} MiB`, "Write it as .jsonl, one row a line.");
  const text = (await readFile(path, "utf8")).replace(/^\uFEFF/, "");
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (cause) {
    // Many .json files hold one object a line.
    if (text.trimStart().startsWith("{") && text.trimEnd().includes("\n")) return readJsonLines(path);
    throw bad(path, `is not valid JSON: ${(cause as Error).message}`);
  }
  if (isRow(value)) return [value];
  if (!Array.isArray(value)) throw bad(path, "must hold a list of rows");
  const wrong = value.findIndex((row) => !isRow(row));
  if (wrong >= 0) throw bad(path, `row ${wrong + 1} must be a JSON object`);
  return value as Row[];
}

async function readCsv(path: string): Promise<Row[]> {
  const { size } = await stat(path);
  if (size > MAX_WHOLE_FILE) throw bad(path, `is larger than ${MAX_WHOLE_FILE >> 20} MiB`, "Write it as .jsonl, one row a line.");
  try {
    return parseCsv(await readFile(path), {
      bom: true,
      columns: true,
      skip_empty_lines: true,
      cast: (cell, at) => (at.header || cell !== "" ? cell : null),
    }) as Row[];
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause;
    throw bad(path, cause.message);
  }
}

async function readFileRows(path: string): Promise<Row[]> {
  switch (extname(path).toLowerCase()) {
    case ".json":
      return readJson(path);
    case ".jsonl":
      return readJsonLines(path);
    case ".csv":
      return readCsv(path);
    case ".txt":
      return readText(path);
    case ".parquet":
    case ".arrow":
      throw new LowrankError("UNSUPPORTED", `${path}: ${extname(path)} files cannot be read yet`, {
        hint: `Convert it once with Python: datasets.load_dataset("${extname(path).slice(1)}", data_files=…)["train"].to_json("data.jsonl").`,
      });
    default:
      throw bad(path, `is of no known type`, `Allowed file types: ${TYPES.map((t) => t.slice(1)).join(", ")}.`);
  }
}

/**
 * Reads a file of rows, or all files of a folder in the order of their names.
 *
 * @throws LowrankError NOT_FOUND, UNSUPPORTED (parquet, arrow) or DATASET naming file and row
 */
export async function readRows(path: string): Promise<Row[]> {
  const info = await stat(path).catch(() => undefined);
  if (!info) throw new LowrankError("NOT_FOUND", `The data file ${path} does not exist`);
  if (!info.isDirectory()) return readFileRows(path);
  const names = (await readdir(path)).filter((name) => !name.startsWith(".")).sort();
  const types = new Set(names.map((name) => extname(name)));
  if (types.size !== 1)
    throw bad(
      path,
      `the files of a folder must all be of one type, found ${names.length === 0 ? "none" : [...types].join(", ")}`,
    );
  const rows: Row[] = [];
  for (const name of names) for (const row of await readFileRows(join(path, name))) rows.push(row);
  return rows;
}
