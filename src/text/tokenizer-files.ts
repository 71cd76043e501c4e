import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { LowrankError } from "../errors.js";

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
