import { readdir, stat } from "node:fs/promises";
import { extname } from "node:path";
import { pipeline } from "node:stream/promises";
import { CsvError, parse as parseCsv } from "csv-parse";
import { LowrankError } from "../errors.js";
import { LIMITS, pathInside } from "../io/input.js";
import { parseJson } from "./json.js";
import { badData, chunks, jsonValues, lines, type Piece } from "./pieces.js";

/** A row of a data set as it stands in the file. */
export type Row = Record<string, unknown>;

/** File types LLaMA-Factory reads; arrow and parquet are known but not read here. */
const TYPES = [".json", ".jsonl", ".csv", ".txt"] as const;

function isRow(value: unknown): value is Row {
  return typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Number);
}

async function readText(path: string): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const group of lines(path)) for (const { text } of group) rows.push({ text });
  return rows;
}

/** JSON rows, each parsed as soon as its text is complete. */
async function readJson(path: string, groups: AsyncGenerator<Piece[]>): Promise<Row[]> {
  const rows: Row[] = [];
  for await (const group of groups) {
    for (const { text, at } of group) {
      const body = at === "line 1" ? text.replace(/^\uFEFF/, "") : text;
      if (at.startsWith("line") && body.trim() === "") continue;
      let value: unknown;
      try {
        value = parseJson(body);
      } catch (cause) {
        // `[]` and `[ ]` are lists without rows.
        if (at === "row 1" && body.trim() === "" && cause instanceof SyntaxError) continue;
        throw badData(path, `${at} is not valid JSON: ${(cause as Error).message}`);
      }
      if (!isRow(value)) throw badData(path, `${at} must be a JSON object`);
      rows.push(value);
    }
  }
  return rows;
}

async function readCsv(path: string): Promise<Row[]> {
  const parser = parseCsv({
    bom: true,
    columns: (names: string[]) => checkedColumns(path, names),
    skip_empty_lines: true,
    max_record_size: LIMITS.row.bytes,
    cast: (cell, at) => (at.header || cell !== "" ? cell : null),
  });
  const rows: Row[] = [];
  parser.on("data", (row: Row) => rows.push(row));
  try {
    await pipeline(utf8(path), parser);
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause;
    throw badData(path, cause.message);
  }
  return rows;
}

/** What the parser would take without complaint: bytes that are no UTF-8, and cells without end. */
async function* utf8(path: string): AsyncGenerator<Buffer> {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let commas = 0;
  let line = 1;
  try {
    for await (const chunk of chunks(path)) {
      for (const byte of chunk) {
        if (byte === 0x2c && ++commas > LIMITS.commas) throw badData(path, `line ${line} has more than ${LIMITS.commas} commas`);
        if (byte !== 0x0a) continue;
        commas = 0;
        line++;
      }
      decoder.decode(chunk, { stream: true });
      yield Buffer.from(chunk);
    }
    decoder.decode();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw badData(path, "is not UTF-8 text");
  }
}

function checkedColumns(path: string, names: string[]): string[] {
  if (names.length > LIMITS.columns) throw badData(path, `has ${names.length} columns, more than ${LIMITS.columns}`);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice !== undefined) throw badData(path, `has the column ${JSON.stringify(twice)} twice`, "Rename one of the two.");
  if (names.includes("__proto__")) throw badData(path, "has a column __proto__, which cannot be read");
  return names;
}

async function readFileRows(path: string): Promise<Row[]> {
  switch (extname(path).toLowerCase()) {
    case ".json":
      return readJson(path, jsonValues(path));
    case ".jsonl":
      return readJson(path, lines(path));
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
      throw badData(path, `is of no known type`, `Allowed file types: ${TYPES.map((t) => t.slice(1)).join(", ")}.`);
  }
}

/**
 * Reads a file of rows, or all files of a folder in the order of their names.
 *
 * @throws LowrankError NOT_FOUND, UNSUPPORTED (parquet, arrow), INVALID_FILE (no regular file) or DATASET naming file and row
 */
export async function readRows(path: string): Promise<Row[]> {
  const info = await stat(path).catch(() => undefined);
  if (!info) throw new LowrankError("NOT_FOUND", `The data file ${path} does not exist`);
  if (!info.isDirectory()) return readFileRows(path);
  const names = (await readdir(path)).filter((name) => !name.startsWith(".")).sort();
  const types = new Set(names.map((name) => extname(name)));
  if (types.size !== 1)
    throw badData(
      path,
      `the files of a folder must all be of one type, found ${names.length === 0 ? "none" : [...types].join(", ")}`,
    );
  const rows: Row[] = [];
  for (const name of names) for (const row of await readFileRows(await pathInside(path, name))) rows.push(row);
  return rows;
}
