import { stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { LowrankError } from "../errors.js";
import type { ChatMessage } from "../text/chat-template.js";
import { type ConvertedRow, convertRows, type Turn } from "./convert.js";
import { checkAttr, datasetAttr, findDataset, type RegisteredDataset, readRegistry, type Stage } from "./dataset-info.js";
import { parseJson } from "./json.js";
import { fillPlaceholders } from "./placeholders.js";
import { type Row, readRows } from "./readers.js";
import { permutation } from "./shuffle.js";

/** A row ready to be tokenised: plain text, a conversation, a prompt with its completion, or one that cannot be used. */
export type DataRow =
  | { kind: "text"; text: string }
  | { kind: "chat"; messages: ChatMessage[]; tools: unknown[] | null }
  | { kind: "completion"; prompt: string; completion: string }
  | { kind: "broken"; reason: string };

export interface LoadOptions {
  /** Names of dataset_info.json or paths of data files, separated by commas or as a list. */
  dataset: string | readonly string[];
  /** Folder of dataset_info.json (default `data`). */
  datasetDir?: string;
  stage: Stage;
  /** Values of `{{name}}` placeholders. */
  datasetVars?: Readonly<Record<string, string>>;
  /** Takes the first rows of each data set only. */
  maxSamples?: number;
  /** Seed of the choice that `num_samples` of dataset_info.json makes. */
  seed?: number;
}

/**
 * Reads data sets, one behind the other, in the form that training takes.
 *
 * @throws LowrankError NOT_FOUND, UNSUPPORTED or DATASET, naming the data set and the row
 */
export async function loadRows(options: LoadOptions): Promise<DataRow[]> {
  const names = (typeof options.dataset === "string" ? options.dataset.split(",") : options.dataset)
    .map((n) => n.trim())
    .filter((n) => n !== "");
  if (names.length === 0)
    throw new LowrankError("DATASET", "No data set is named", {
      hint: "Set dataset to a name of dataset_info.json or to the path of a data file.",
    });
  const all: DataRow[] = [];
  for (const name of names) for (const row of await loadOne(name, options)) all.push(row);
  return all;
}

async function loadOne(name: string, options: LoadOptions): Promise<DataRow[]> {
  const folder = options.datasetDir ?? "data";
  const bare = await bareFile(name, folder);
  let rows: DataRow[];
  if (bare) {
    rows = detectRows(await readRows(bare), basename(bare), options.stage);
  } else {
    const found = await findDataset(await readRegistry(folder), name, folder, options.stage);
    const converted = convertRows(await readRows(found.path), found.attr, name);
    rows = converted.map((row) => fromConverted(row, options.stage));
    rows = sample(rows, found, options.seed ?? 42);
  }
  if (options.maxSamples !== undefined) rows = rows.slice(0, options.maxSamples);
  return fillPlaceholders(rows, options.datasetVars ?? {}, name);
}

/** The path of a data file given in place of a name, or undefined for a name. */
async function bareFile(name: string, folder: string): Promise<string | undefined> {
  if (!/\.(json|jsonl|csv|txt|parquet|arrow)$/i.test(name)) return undefined;
  for (const path of [name, join(folder, name)])
    if (
      await stat(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  throw new LowrankError("NOT_FOUND", `The data file ${name} does not exist`);
}

/** `num_samples`: rows in a random order, taken again from the front when there are fewer than asked for. */
function sample(rows: DataRow[], { attr }: RegisteredDataset, seed: number): DataRow[] {
  if (attr.num_samples === null) return rows;
  const order = permutation(rows.length, seed, 0);
  return Array.from({ length: attr.num_samples }, (_, i) => rows[order[i % rows.length]!]!);
}

/** A converted row as a conversation; for stage pt, the text of its first message. */
export function fromConverted(row: ConvertedRow, stage: Stage): DataRow {
  if (stage === "pt") {
    const text = row._prompt[0]?.content;
    return typeof text === "string" ? { kind: "text", text } : { kind: "broken", reason: "it has no text" };
  }
  if (row._prompt.length === 0)
    return { kind: "broken", reason: "its messages are out of order, of an odd number, or of an unknown role" };
  if (row._response.length !== 1)
    return { kind: "broken", reason: row._response.length === 0 ? "it has no answer" : "it has two answers" };
  const tools = parseTools(row._tools);
  if (typeof tools === "string") return { kind: "broken", reason: tools };
  const system = row._system === null || row._system === "" ? [] : [{ role: "system", content: row._system }];
  return { kind: "chat", messages: [...system, ...[...row._prompt, ...row._response].map(toMessage)], tools };
}

function toMessage(turn: Turn): ChatMessage {
  if (turn.role === "observation") return { role: "tool", content: turn.content };
  if (turn.role !== "function") return { role: turn.role, content: turn.content };
  const calls = typeof turn.content === "string" ? tryJson(turn.content) : turn.content;
  const list = (Array.isArray(calls) ? calls : [calls]).filter(
    (c) => typeof c === "object" && c !== null && "name" in c,
  ) as Row[];
  // A call that is no JSON stays the text it is.
  if (list.length === 0) return { role: "assistant", content: turn.content };
  const tool_calls = list.map(({ name, arguments: args }) => ({
    type: "function",
    function: { name, arguments: typeof args === "string" ? (tryJson(args) ?? args) : (args ?? {}) },
  }));
  return { role: "assistant", content: "", tool_calls };
}

function tryJson(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}

/** The tools of a row, null for none, or why they cannot be used. */
function parseTools(tools: unknown): unknown[] | null | string {
  const value = typeof tools === "string" && tools !== "" ? tryJson(tools) : tools;
  if (value === "" || value === null) return null;
  if (!Array.isArray(value)) return "its tools are not a JSON list";
  if (value.length === 0) return null;
  // LLaMA-Factory lists bare functions; chat templates expect them under `function`.
  return value.map((tool) =>
    typeof tool === "object" && tool !== null && "function" in tool ? tool : { type: "function", function: tool },
  );
}

const isMessages = (value: unknown): value is ChatMessage[] =>
  Array.isArray(value) && value.length > 0 && value.every((m) => typeof (m as Row | null)?.role === "string");

/** Rows of a file without an entry in dataset_info.json: the shapes TRL knows, alpaca and ShareGPT, told apart by their columns. */
export function detectRows(rows: readonly Row[], name: string, stage: Stage): DataRow[] {
  if (rows.length === 0) throw new LowrankError("DATASET", `${name} has no rows`);
  const columns = new Set<string>();
  for (const row of rows) for (const column of Object.keys(row)) columns.add(column);
  const has = (...names: string[]) => names.every((n) => columns.has(n));
  if (stage === "dpo" || stage === "rm" || stage === "kto")
    throw new LowrankError("UNSUPPORTED", `Stage ${stage} is not trained by this version`);
  if (has("chosen", "rejected"))
    throw new LowrankError("DATASET", `${name} holds pairs of chosen and rejected answers, which stage ${stage} cannot use`);
  if (has("messages")) return rows.map((row) => messagesRow(row, "messages"));
  if (has("conversations"))
    return rows.some((row) => isMessages(row.conversations))
      ? rows.map((row) => messagesRow(row, "conversations"))
      : converted(rows, name, stage, sharegptEntry(has));
  if (has("instruction", "output")) return converted(rows, name, stage, alpacaEntry(has));
  if (has("prompt", "completion")) return rows.map(completionRow);
  if (has("text"))
    return rows.map((row) =>
      typeof row.text === "string" ? { kind: "text", text: row.text } : { kind: "broken", reason: "its text is not a text" },
    );
  throw new LowrankError("DATASET", `${name} has the columns ${[...columns].join(", ")}, which is none of the known shapes`, {
    hint: "Known are text; messages; conversations; prompt and completion; instruction, input and output. For other names describe the file in dataset_info.json.",
  });
}

type Has = (...names: string[]) => boolean;
const given = (has: Has, ...names: string[]) => Object.fromEntries(names.filter((n) => has(n)).map((n) => [n, n]));
const alpacaEntry = (has: Has) => ({
  columns: {
    prompt: "instruction",
    response: "output",
    ...(has("input") ? { query: "input" } : {}),
    ...given(has, "history", "system", "tools"),
  },
});
const sharegptEntry = (has: Has) => ({
  formatting: "sharegpt",
  columns: { messages: "conversations", ...given(has, "system", "tools") },
});

function converted(rows: readonly Row[], name: string, stage: Stage, entry: Record<string, unknown>): DataRow[] {
  const attr = datasetAttr(entry);
  checkAttr(name, attr, stage);
  return convertRows(rows, attr, name).map((row) => fromConverted(row, stage));
}

function messagesRow(row: Row, column: string): DataRow {
  const messages = row[column];
  if (!isMessages(messages)) return { kind: "broken", reason: `its ${column} are not a list of messages with roles` };
  const tools = parseTools(row.tools ?? null);
  return typeof tools === "string" ? { kind: "broken", reason: tools } : { kind: "chat", messages, tools };
}

function completionRow(row: Row): DataRow {
  const { prompt, completion } = row;
  if (typeof prompt === "string" && typeof completion === "string") return { kind: "completion", prompt, completion };
  if (isMessages(prompt) && isMessages(completion)) {
    const tools = parseTools(row.tools ?? null);
    return typeof tools === "string"
      ? { kind: "broken", reason: tools }
      : { kind: "chat", messages: [...prompt, ...completion], tools };
  }
  return { kind: "broken", reason: "its prompt and completion are neither two texts nor two lists of messages" };
}
