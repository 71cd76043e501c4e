import { LowrankError } from "../errors.js";
import { LIMITS, type Limits, readTextFile } from "./input.js";

/** JSON values as parsed from a file. */
export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
  [key: string]: Json;
}

/**
 * Parses JSON strictly: a leading byte order mark is dropped, a key that occurs twice in one object is refused (JSON.parse keeps
 * the last one in silence), and so is more than the limits allow. `source` names the file in errors. Keys such as `__proto__`
 * become plain own properties. Throws INVALID_FILE with the position.
 */
export function parseJson(text: string, source: string, limits: Limits = LIMITS.config): Json {
  const body = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  let value: Json;
  let scan: JsonScan;
  try {
    scan = scanJson(body, limits.values);
    value = JSON.parse(body);
  } catch (error) {
    throw new LowrankError("INVALID_FILE", `${source} is not valid JSON: ${(error as Error).message}`, {
      hint: "The file may be cut short or damaged: write or download it again.",
      details: { file: source },
      cause: error,
    });
  }
  const { duplicate } = scan;
  if (duplicate) {
    throw new LowrankError(
      "INVALID_FILE",
      `${source} has the key ${JSON.stringify(duplicate.key)} twice in one object (position ${duplicate.at})`,
      {
        hint: "Remove one of the two.",
        details: { file: source, key: duplicate.key, position: duplicate.at },
      },
    );
  }
  return value;
}

/** As parseJson, and the top level must be an object. */
export function parseJsonObject(text: string, source: string, limits: Limits = LIMITS.config): JsonObject {
  const value = parseJson(text, source, limits);
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    const found = value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;
    throw new LowrankError("INVALID_FILE", `${source} should hold a JSON object, found ${found}`, { details: { file: source } });
  }
  return value;
}

/** Reads a JSON file whose top level is an object. Throws NOT_FOUND, or INVALID_FILE (also above the limits). */
export async function readJsonFile(path: string, limits: Limits = LIMITS.config): Promise<JsonObject> {
  return parseJsonObject(await readTextFile(path, limits), path, limits);
}

export interface JsonScan {
  /** The first key that stands twice in one object, and where. */
  duplicate: { key: string; at: number } | undefined;
}

/**
 * Walks a text before JSON.parse takes memory for it; whether it is JSON at all is for JSON.parse to say.
 * @throws SyntaxError for nesting deeper than LIMITS.depth, or more values than `maxValues`
 */
export function scanJson(text: string, maxValues: number): JsonScan {
  const open: (Set<string> | null)[] = []; // a set of keys for an object, null for a list
  let duplicate: JsonScan["duplicate"];
  let keyNext = false;
  let values = 1;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x7b: // {
      case 0x5b: // [
        keyNext = text.charCodeAt(i) === 0x7b;
        open.push(keyNext ? new Set() : null);
        if (++values > maxValues) throw new SyntaxError(`more than ${maxValues} values`);
        if (open.length > LIMITS.depth) throw new SyntaxError(`nested more than ${LIMITS.depth} deep at position ${i}`);
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        keyNext = false;
        break;
      case 0x2c: // ,
        keyNext = open[open.length - 1] !== null;
        if (++values > maxValues) throw new SyntaxError(`more than ${maxValues} values`);
        break;
      case 0x22: {
        const begin = i++;
        let escaped = false;
        for (; i < text.length && text.charCodeAt(i) !== 0x22; i++) {
          if (text.charCodeAt(i) !== 0x5c) continue;
          escaped = true;
          i++;
        }
        const keys = open[open.length - 1];
        if (!keyNext || !keys || duplicate) break;
        keyNext = false;
        const key = escaped ? unescaped(text.slice(begin, i + 1)) : text.slice(begin + 1, i);
        if (keys.has(key)) duplicate = { key, at: begin };
        keys.add(key);
        break;
      }
    }
  }
  return { duplicate };
}

/** A key with escapes as it reads; as it is written where it is no JSON, which JSON.parse will say. */
function unescaped(quoted: string): string {
  try {
    return JSON.parse(quoted);
  } catch {
    return quoted;
  }
}
