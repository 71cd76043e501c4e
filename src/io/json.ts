import { open } from "node:fs/promises";
import { LowrankError } from "../errors.js";

/** JSON values as parsed from a file. */
export type Json = null | boolean | number | string | Json[] | JsonObject;
export interface JsonObject {
  [key: string]: Json;
}

const DEFAULT_LIMIT = 256 * 1024 * 1024;

/**
 * Parses JSON strictly: a leading byte order mark is dropped, a key that occurs twice in one object is refused (JSON.parse keeps
 * the last one in silence). `source` names the file in errors. Keys such as `__proto__` become plain own properties.
 * Throws INVALID_FILE with the position.
 */
export function parseJson(text: string, source: string): Json {
  const body = text.charCodeAt(0) === 0xfeff ? text.slice(1) : text;
  let value: Json;
  try {
    value = JSON.parse(body);
  } catch (error) {
    throw new LowrankError("INVALID_FILE", `${source} is not valid JSON: ${(error as Error).message}`, {
      hint: "The file may be cut short or damaged: write or download it again.",
      details: { file: source },
      cause: error,
    });
  }
  const duplicate = findDuplicateKey(body);
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
export function parseJsonObject(text: string, source: string): JsonObject {
  const value = parseJson(text, source);
  if (value === null || typeof value !== "object" || Array.isArray(value)) {
    const found = value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`;
    throw new LowrankError("INVALID_FILE", `${source} should hold a JSON object, found ${found}`, { details: { file: source } });
  }
  return value;
}

/** Reads a JSON file whose top level is an object. Throws NOT_FOUND, or INVALID_FILE (also above `limit` bytes). */
export async function readJsonFile(path: string, limit = DEFAULT_LIMIT): Promise<JsonObject> {
  return parseJsonObject(await readTextFile(path, limit), path);
}

/** Reads a UTF-8 text file of at most `limit` bytes; invalid UTF-8 is refused. */
export async function readTextFile(path: string, limit = DEFAULT_LIMIT): Promise<string> {
  const handle = await open(path, "r").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR")
      throw new LowrankError("NOT_FOUND", `${path} does not exist`, { details: { file: path } });
    throw new LowrankError("INVALID_FILE", `${path} cannot be read: ${error.message}`, { details: { file: path }, cause: error });
  });
  try {
    const { size } = await handle.stat();
    if (size > limit) {
      throw new LowrankError("INVALID_FILE", `${path} has ${size} bytes, more than the ${limit} a file of this kind may have`, {
        details: { file: path, expected: limit, found: size },
      });
    }
    const bytes = await handle.readFile();
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: false }).decode(bytes);
  } catch (error) {
    if (error instanceof LowrankError) throw error;
    const reason = error instanceof TypeError ? "it is not UTF-8 text" : (error as Error).message;
    throw new LowrankError("INVALID_FILE", `${path} cannot be read: ${reason}`, { details: { file: path }, cause: error });
  } finally {
    await handle.close();
  }
}

/** Walks text that JSON.parse has accepted, so the grammar need not be checked again. */
function findDuplicateKey(text: string): { key: string; at: number } | undefined {
  const open: (Set<string> | null)[] = []; // a set of keys for an object, null for a list
  let keyNext = false;
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x7b: // {
        open.push(new Set());
        keyNext = true;
        break;
      case 0x5b: // [
        open.push(null);
        keyNext = false;
        break;
      case 0x7d: // }
      case 0x5d: // ]
        open.pop();
        keyNext = false;
        break;
      case 0x2c: // ,
        keyNext = open[open.length - 1] !== null;
        break;
      case 0x22: {
        const begin = i++;
        while (text.charCodeAt(i) !== 0x22) i += text.charCodeAt(i) === 0x5c ? 2 : 1;
        const keys = open[open.length - 1];
        if (!keyNext || !keys) break;
        const key: string = JSON.parse(text.slice(begin, i + 1));
        if (keys.has(key)) return { key, at: begin };
        keys.add(key);
        keyNext = false;
        break;
      }
    }
  }
  return undefined;
}
