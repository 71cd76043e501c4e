import { stat } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { LIMITS, type Limits, pathInside, readTextFile } from "../io/input.js";
import { type JsonObject, parseJsonObject } from "../io/json.js";
import type { Keys } from "../notes.js";
import type { AddedToken } from "./added-tokens.js";
import { modelType } from "./tokenizer-parts.js";

/** Files that make up a tokenizer, in the order they are copied. */
export const TOKENIZER_FILES = [
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "added_tokens.json",
  "vocab.json",
  "merges.txt",
  "tokenizer.model",
  "chat_template.jinja",
  "chat_template.json",
] as const;

/** Reads a text file of a tokenizer's folder, or undefined when there is none. */
export async function readOptional(folder: string, name: string, limits: Limits): Promise<string | undefined> {
  try {
    return await readTextFile(await pathInside(folder, name), limits);
  } catch (error) {
    if (error instanceof LowrankError && error.code === "NOT_FOUND") return undefined;
    throw error;
  }
}

/** Reads a JSON object of a tokenizer's folder, or undefined when there is none. */
export async function readOptionalJson(
  folder: string,
  name: string,
  limits: Limits = LIMITS.config,
): Promise<JsonObject | undefined> {
  const text = await readOptional(folder, name, limits);
  return text === undefined ? undefined : parseJsonObject(text, join(folder, name), limits);
}

/** The chat templates of a model: the default one and named others, as transformers finds them. */
export async function readChatTemplates(folder: string, config: Keys): Promise<Record<string, string>> {
  const templates: Record<string, string> = Object.create(null);
  const inConfig = config.read("chat_template");
  if (typeof inConfig === "string") templates.default = inConfig;
  if (Array.isArray(inConfig)) {
    for (const entry of inConfig as { name?: unknown; template?: unknown }[]) {
      if (typeof entry?.name === "string" && typeof entry.template === "string") templates[entry.name] = entry.template;
    }
  }
  const legacy = (await readOptionalJson(folder, "chat_template.json"))?.chat_template;
  if (typeof legacy === "string") templates.default = legacy;
  // A file of its own wins over the configuration.
  const file = await readOptional(folder, "chat_template.jinja", LIMITS.template);
  if (file !== undefined) templates.default = file;
  return templates;
}

/** Text of a token that a configuration gives as a string or as an object. */
export function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/** Ids index tables: far ones would make them huge. */
const MAX_ID = 2 ** 24;
const isId = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0 && (value as number) < MAX_ID;

/** An entry of `added_tokens`. */
export function addedToken(entry: Record<string, unknown>): AddedToken {
  if (typeof entry.content !== "string" || !isId(entry.id)) throw new Error("an added token lacks its content or id");
  return {
    id: entry.id,
    content: entry.content,
    singleWord: entry.single_word === true,
    lstrip: entry.lstrip === true,
    rstrip: entry.rstrip === true,
    normalized: (entry.normalized ?? entry.special !== true) === true,
    special: entry.special === true,
  };
}

/** Refuses a vocabulary that is none: a list of texts with their scores for Unigram, else a map from text to id. */
export function checkIds(json: Readonly<Record<string, unknown>>): void {
  checkPieces(json.pre_tokenizer);
  const vocab = (json.model as { vocab?: unknown } | null | undefined)?.vocab;
  if (typeof vocab !== "object" || vocab === null) throw new Error("its model has no vocabulary");
  if (Array.isArray(vocab) !== (modelType(json.model) === "Unigram"))
    throw new Error("the vocabulary of Unigram is a list, every other a map from text to id");
  if (Array.isArray(vocab)) {
    const odd = vocab.find((entry) => !(Array.isArray(entry) && typeof entry[0] === "string" && typeof entry[1] === "number"));
    if (odd !== undefined) throw new Error(`the vocabulary holds ${JSON.stringify(odd).slice(0, 100)}, not a text and its score`);
    return;
  }
  for (const [token, id] of Object.entries(vocab))
    if (!isId(id)) throw new Error(`the vocabulary gives ${JSON.stringify(token)} the id ${JSON.stringify(id)}`);
}

/** Pieces of length 0 would be cut without end. */
function checkPieces(part: unknown): void {
  if (typeof part !== "object" || part === null) return;
  const { type, length } = part as { type?: unknown; length?: unknown };
  if (type === "FixedLength" && !(Number.isInteger(length) && (length as number) > 0)) throw new Error("pieces of length 0");
  for (const value of Object.values(part)) checkPieces(value);
}

/** Says what a folder without tokenizer.json lacks. */
export async function missingTokenizer(folder: string): Promise<LowrankError> {
  const exists = (name: string) =>
    stat(join(folder, name)).then(
      () => true,
      () => false,
    );
  if (!(await exists("."))) return new LowrankError("NOT_FOUND", `There is no folder ${folder}`);
  if ((await exists("tokenizer.model")) || (await exists("vocab.json"))) {
    return new LowrankError("UNSUPPORTED", `${folder} has an old tokenizer without tokenizer.json`, {
      hint: "Save it once with transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...), which writes tokenizer.json.",
    });
  }
  return new LowrankError("NOT_FOUND", `${folder} has no tokenizer.json`, {
    hint: "Copy the tokenizer files of the model into the folder.",
  });
}
