import { LowrankError } from "../errors.js";
import { pythonJson } from "../text/python-json.js";
import type { DatasetAttr } from "./dataset-info.js";
import type { Row } from "./readers.js";

export type Role = "user" | "assistant" | "observation" | "function";
export interface Turn {
  role: Role;
  /** Text; other values pass through untouched, templates then refuse them. */
  content: unknown;
}

/**
 * A row in LLaMA-Factory's common form. Broken rows have both lists empty. Two responses are the chosen and the rejected one,
 * or for KTO the answer and an empty one: [answer, empty] is a good one, [empty, answer] a bad one.
 */
export interface ConvertedRow {
  _prompt: Turn[];
  _response: Turn[];
  _system: unknown;
  _tools: unknown;
}

type Convert = (row: Row) => ConvertedRow;
type Fail = (what: string) => never;

const assistant = (content: unknown): Turn => ({ role: "assistant", content });
const isObject = (value: unknown): value is Row => typeof value === "object" && value !== null && !Array.isArray(value);

/** Converts rows of a file by the attributes of its registry entry. @throws LowrankError DATASET, naming the row */
export function convertRows(rows: readonly Row[], attr: DatasetAttr, name: string): ConvertedRow[] {
  if (rows.length === 0) throw new LowrankError("DATASET", `The data set "${name}" has no rows`);
  const column = columnsOf(rows, attr, name);
  let at = 0;
  const fail: Fail = (what) => {
    throw new LowrankError("DATASET", `The data set "${name}", row ${at + 1}: ${what}`, { details: { row: at } });
  };
  const convert =
    attr.formatting === "alpaca" ? alpaca(attr, column, fail) : conversation(attr, column, fail, messageKeys(rows, attr));
  return rows.map((row, i) => {
    at = i;
    return convert(row);
  });
}

type Column = (row: Row, key: ColumnKey) => unknown;
type ColumnKey =
  | "prompt"
  | "query"
  | "response"
  | "history"
  | "messages"
  | "system"
  | "tools"
  | "chosen"
  | "rejected"
  | "kto_tag";

/** Reads a column of a row: null where the row lacks it. A column that no row has is an error, once it is read. */
function columnsOf(rows: readonly Row[], attr: DatasetAttr, name: string): Column {
  const present = new Set<string>();
  for (const row of rows) for (const key of Object.keys(row)) present.add(key);
  return (row, key) => {
    const column = attr[key];
    if (column === null) return null;
    if (!present.has(column)) {
      throw new LowrankError("DATASET", `The data set "${name}" has no column "${column}" (for ${key})`, {
        hint: `Its columns are: ${[...present].join(", ")}.`,
      });
    }
    return (Object.hasOwn(row, column) ? row[column] : null) ?? null;
  };
}

function alpaca(attr: DatasetAttr, column: Column, fail: Fail): Convert {
  return (row) => {
    const prompt: Turn[] = [];
    const history = column(row, "history");
    for (const pair of Array.isArray(history) ? history : []) {
      if (!Array.isArray(pair) || pair.length !== 2) fail("a history entry must be a pair of question and answer");
      prompt.push({ role: "user", content: pair[0] }, assistant(pair[1]));
    }
    const question = [column(row, "prompt"), column(row, "query")].filter(
      (x) => x !== null && x !== "" && x !== 0 && x !== false,
    );
    if (!question.every((x) => typeof x === "string")) fail("instruction and input must be texts");
    prompt.push({ role: "user", content: question.join("\n") });
    return {
      _prompt: prompt,
      _response: alpacaResponse(row, attr, column),
      _system: attr.system === null ? "" : column(row, "system"),
      _tools: attr.tools === null ? "" : column(row, "tools"),
    };
  };
}

function alpacaResponse(row: Row, attr: DatasetAttr, column: Column): Turn[] {
  const tag = column(row, "kto_tag");
  if (typeof tag === "boolean") return feedback(assistant(column(row, "response")), tag);
  if (attr.ranking) {
    const pair = [column(row, "chosen"), column(row, "rejected")];
    if (pair.every((x) => typeof x === "string")) return pair.map(assistant);
  }
  const response = column(row, "response");
  return typeof response === "string" ? [assistant(response)] : [];
}

const feedback = (answer: Turn, good: boolean): Turn[] => (good ? [answer, assistant("")] : [assistant(""), answer]);

/** Keys that any message of the data set has: one that none has is an error, one that a message lacks is null. */
function messageKeys(rows: readonly Row[], attr: DatasetAttr): Set<string> {
  const keys = new Set<string>();
  for (const row of rows) {
    const messages = attr.messages === null ? undefined : row[attr.messages];
    for (const message of Array.isArray(messages) ? messages : [])
      if (isObject(message)) for (const key of Object.keys(message)) keys.add(key);
  }
  return keys;
}

/** ShareGPT and openai: lists of messages whose roles alternate. */
function conversation(attr: DatasetAttr, column: Column, fail: Fail, known: Set<string>): Convert {
  const roles = new Map<unknown, Role>([
    [attr.user_tag, "user"],
    [attr.assistant_tag, "assistant"],
    [attr.observation_tag, "observation"],
    [attr.function_tag, "function"],
  ]);
  roles.delete(null);
  const field = (message: unknown, tag: "role_tag" | "content_tag"): unknown => {
    const key = attr[tag];
    if (!isObject(message)) return fail("a message must be an object");
    if (key === null || (!known.has(key) && !Object.hasOwn(message, key)))
      return fail(`its messages have no "${key}" (${tag}); they have: ${[...known].join(", ")}`);
    return (Object.hasOwn(message, key) ? message[key] : null) ?? null;
  };
  const align = attr.formatting === "openai" ? alignOpenai : alignSharegpt;
  return (row) => {
    let messages = column(row, "messages");
    if (!Array.isArray(messages)) return fail(`"${attr.messages}" must be a list of messages`);
    let system: unknown = attr.system === null ? "" : column(row, "system");
    if (attr.system_tag !== null && messages.length > 0 && field(messages[0], "role_tag") === attr.system_tag) {
      system = field(messages[0], "content_tag");
      messages = messages.slice(1);
    }
    const turns = align(messages as unknown[], attr, roles, field, fail);
    const [prompt, response] = turns ? split(row, turns, attr, column, roles, field, fail) : [[], []];
    const tools = attr.tools === null ? "" : column(row, "tools");
    const converted: ConvertedRow = { _prompt: prompt, _response: response, _system: system, _tools: tools };
    return attr.formatting === "openai" ? withOpenaiSystem(converted) : converted;
  };
}

type Field = (message: unknown, tag: "role_tag" | "content_tag") => unknown;

/** True when user or observation and assistant or function take turns, and the count leaves room for the response. */
function inOrder(turns: readonly Turn[], attr: DatasetAttr): boolean {
  const allowed = [
    ["user", "observation"],
    ["assistant", "function"],
  ];
  return turns.length % 2 === (attr.ranking ? 1 : 0) && turns.every((turn, i) => allowed[i % 2]!.includes(turn.role));
}

/** The turns, or undefined for a broken row. */
function alignSharegpt(messages: unknown[], attr: DatasetAttr, roles: Map<unknown, Role>, field: Field): Turn[] | undefined {
  const turns: Turn[] = [];
  for (const message of messages) {
    const role = roles.get(field(message, "role_tag"));
    if (!role) return undefined;
    turns.push({ role, content: field(message, "content_tag") });
  }
  return inOrder(turns, attr) ? turns : undefined;
}

/** As alignSharegpt, with tool_calls as function turns and runs of tool messages joined; trailing ones are lost. */
function alignOpenai(
  messages: unknown[],
  attr: DatasetAttr,
  roles: Map<unknown, Role>,
  field: Field,
  fail: Fail,
): Turn[] | undefined {
  const turns: Turn[] = [];
  let results: unknown[] = [];
  for (const message of messages) {
    let role = roles.get(field(message, "role_tag"));
    let content = field(message, "content_tag");
    const calls = (message as Row).tool_calls;
    if ((role === "assistant" || role === "function") && Array.isArray(calls) && calls.length > 0) {
      content = pythonJson(calls.map((call) => (isObject(call) ? call.function : fail("a tool call must be an object"))));
      role = "function";
    }
    if (role === "observation") {
      results.push(content);
      continue;
    }
    if (results.length > 0) {
      turns.push({ role: "observation", content: results.join("\n</tool_response>\n<tool_response>\n") });
      results = [];
    }
    if (!role) return fail(`the role ${JSON.stringify(field(message, "role_tag"))} is none of the tags`);
    turns.push({ role, content });
  }
  return inOrder(turns, attr) ? turns : undefined;
}

/** Prompt and response of turns that are in order. */
function split(
  row: Row,
  turns: Turn[],
  attr: DatasetAttr,
  column: Column,
  roles: Map<unknown, Role>,
  field: Field,
  fail: Fail,
): [Turn[], Turn[]] {
  const tag = column(row, "kto_tag");
  const last = turns.at(-1);
  if (typeof tag === "boolean" && last) return [turns.slice(0, -1), feedback(last, tag)];
  if (attr.ranking) {
    const pair = [column(row, "chosen"), column(row, "rejected")];
    if (pair.every(isObject)) {
      const answers = pair.map((message): Turn => {
        const role = roles.get(field(message, "role_tag"));
        return {
          role: role ?? fail("chosen or rejected has a role that is none of the tags"),
          content: field(message, "content_tag"),
        };
      });
      return [turns, answers];
    }
  }
  return [turns.slice(0, -1), turns.slice(-1)];
}

const THINKING_OFF = "detailed thinking off";

/** What LLaMA-Factory's openai converter writes into the system text, and tools as one JSON text. */
function withOpenaiSystem(row: ConvertedRow): ConvertedRow {
  const tools = Array.isArray(row._tools) ? (row._tools.length > 0 ? pythonJson(row._tools) : "") : row._tools;
  const system = row._system;
  if (typeof system === "string" && system !== "") {
    if (tools) return { ...row, _tools: tools, _system: `${system}\n` };
    const said = system.includes("detailed thinking on") || system.includes(THINKING_OFF);
    return { ...row, _tools: tools, _system: said ? system : `${system}\n${THINKING_OFF}` };
  }
  return { ...row, _tools: tools, _system: tools ? system : THINKING_OFF };
}
