import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import type { AddedToken } from "./added-tokens.js";

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

/** Reads a file, or undefined when it does not exist. */
export async function readOptional(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new LowrankError("INVALID_FILE", `${path} cannot be read: ${(cause as Error).message}`, { cause });
  }
}

/** Parses a JSON object of a tokenizer's folder. */
export function parseObject(text: string, path: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new LowrankError("INVALID_FILE", `${path} is not valid JSON: ${(cause as Error).message}`, {
      hint: "Download the file again; it may have been cut off.",
      cause,
    });
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new LowrankError("INVALID_FILE", `${path} must hold a JSON object`);
  }
  return value as Record<string, unknown>;
}

/** The chat templates of a model: the default one and named others, as transformers finds them. */
export async function readChatTemplates(folder: string, config: Record<string, unknown>): Promise<Record<string, string>> {
  const templates: Record<string, string> = {};
  const inConfig = config.chat_template;
  if (typeof inConfig === "string") templates.default = inConfig;
  if (Array.isArray(inConfig)) {
    for (const entry of inConfig as { name?: unknown; template?: unknown }[]) {
      if (typeof entry?.name === "string" && typeof entry.template === "string") templates[entry.name] = entry.template;
    }
  }
  const legacyPath = join(folder, "chat_template.json");
  const legacy = await readOptional(legacyPath);
  if (legacy !== undefined) {
    const template = parseObject(legacy, legacyPath).chat_template;
    if (typeof template === "string") templates.default = template;
  }
  // A file of its own wins over the configuration.
  const file = await readOptional(join(folder, "chat_template.jinja"));
  if (file !== undefined) templates.default = file;
  return templates;
}

/** Text of a token that a configuration gives as a string or as an object. */
export function tokenText(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const content = (value as { content?: unknown } | null | undefined)?.content;
  return typeof content === "string" ? content : undefined;
}

/** An entry of `added_tokens`. */
export function addedToken(entry: Record<string, unknown>): AddedToken {
  if (typeof entry.content !== "string" || !Number.isInteger(entry.id)) throw new Error("an added token lacks its content or id");
  return {
    id: entry.id as number,
    content: entry.content,
    singleWord: entry.single_word === true,
    lstrip: entry.lstrip === true,
    rstrip: entry.rstrip === true,
    normalized: (entry.normalized ?? entry.special !== true) === true,
    special: entry.special === true,
  };
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
