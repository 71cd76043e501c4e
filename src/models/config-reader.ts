import { LowrankError } from "../errors.js";
import { pathInside } from "../io/input.js";
import { type JsonObject, readJsonFile } from "../io/json.js";
import { Keys } from "../notes.js";

type Json = Record<string, unknown>;

/** config.json of a model's folder. */
export async function readConfigFile(folder: string): Promise<JsonObject> {
  return readJsonFile(await pathInside(folder, "config.json"));
}

/**
 * Reads a config.json key by key and collects every problem, so that one error can list them all ({@link ConfigReader.finish}).
 * A key that is absent or null takes its default; without a default it is a problem. What is read has an effect: keys that no method
 * was asked for are named to the user ({@link ConfigReader.unread}).
 */
export class ConfigReader {
  /** The whole content, to be saved again. A key of it that has an effect is read by a method of this class. */
  readonly json: Json;
  private readonly keys: Keys;
  private readonly nested = new Map<string, ConfigReader>();
  private readonly prefix: string;
  private readonly problems: { unsupported: string[]; invalid: string[] };

  constructor(
    json: Json,
    prefix = "",
    problems: { unsupported: string[]; invalid: string[] } = { unsupported: [], invalid: [] },
  ) {
    this.json = json;
    this.keys = new Keys(json);
    this.prefix = prefix;
    this.problems = problems;
  }

  /** A value of any type; undefined where the key is absent or null. */
  value(key: string): unknown {
    return this.keys.read(key) ?? undefined;
  }

  has(key: string): boolean {
    return this.value(key) !== undefined;
  }

  number(key: string, otherwise?: number): number {
    return this.read(key, "a number", otherwise, 0, (value) => typeof value === "number" && Number.isFinite(value));
  }

  /** A finite number above 0. */
  positive(key: string, otherwise?: number): number {
    const isPositive = (value: unknown) => typeof value === "number" && Number.isFinite(value) && value > 0;
    return this.read(key, "a number above 0", otherwise, 1, isPositive);
  }

  /** An integer from 1 to `most`, far above what models have: products of a few sizes stay exact, and lists of layers short. */
  size(key: string, otherwise?: number, most = 2 ** 24): number {
    const isSize = (value: unknown) => Number.isInteger(value) && (value as number) > 0 && (value as number) <= most;
    return this.read(key, `an integer from 1 to ${most}`, otherwise, 1, isSize);
  }

  boolean(key: string, otherwise?: boolean): boolean {
    return this.read(key, "true or false", otherwise, false, (value) => typeof value === "boolean");
  }

  string(key: string, otherwise?: string): string {
    return this.read(key, "a string", otherwise, "", (value) => typeof value === "string");
  }

  /** One token id, a list of them, or nothing. */
  tokenIds(key: string): number[] {
    if (!this.has(key)) return [];
    const list = [this.value(key)].flat();
    if (!list.every((id) => Number.isSafeInteger(id))) this.invalid(key, "must be a token id or a list of them");
    return list.filter((id): id is number => Number.isSafeInteger(id));
  }

  /** A reader of a nested object, which shares this reader's list of problems. An absent key reads as {}. */
  object(key: string): ConfigReader {
    const former = this.nested.get(key);
    if (former) return former;
    const value = this.value(key) ?? {};
    const isObject = typeof value === "object" && !Array.isArray(value);
    if (!isObject) this.invalid(key, "must be an object");
    const reader = new ConfigReader(isObject ? (value as Json) : {}, `${this.prefix}${key}.`, this.problems);
    this.nested.set(key, reader);
    return reader;
  }

  /** Keys that nothing has read so far, those of nested objects by their path, with their values. */
  unread(): [key: string, value: unknown][] {
    const own = this.keys.unread().map(([key, value]): [string, unknown] => [`${this.prefix}${key}`, value]);
    return [...own, ...[...this.nested.values()].flatMap((reader) => reader.unread())];
  }

  /** Notes that the value asks for something this version does not compute. */
  unsupported(key: string, what: string): void {
    this.problems.unsupported.push(`${this.prefix}${key}: ${what}`);
  }

  invalid(key: string, what: string): void {
    this.problems.invalid.push(`${this.prefix}${key} ${what}`);
  }

  /** Refuses any value of `key` that is not one of `accepted`; absent is accepted. */
  accept(key: string, accepted: readonly unknown[]): void {
    const value = this.value(key);
    if (value !== undefined && !accepted.includes(value)) {
      this.unsupported(key, `${shown(value)} (supported: ${accepted.map((one) => JSON.stringify(one)).join(", ")})`);
    }
  }

  /** Throws one error that lists every problem found so far. */
  finish(what: string): void {
    const { unsupported, invalid } = this.problems;
    if (invalid.length > 0) {
      throw new LowrankError("INVALID_FILE", `${what} is not usable: ${[...invalid, ...unsupported].join("; ")}`, {
        hint: "Compare config.json with the one on the model's Hub page.",
        details: { invalid, unsupported },
      });
    }
    if (unsupported.length > 0) {
      throw new LowrankError("UNSUPPORTED", `${what} asks for what this version does not compute: ${unsupported.join("; ")}`, {
        hint: "Choose another model: running this one without these options would give wrong results.",
        details: { unsupported },
      });
    }
  }

  private read<T>(key: string, expected: string, otherwise: T | undefined, fallback: T, check: (value: unknown) => boolean): T {
    const value = this.value(key);
    if (value === undefined) {
      if (otherwise === undefined) this.invalid(key, `is missing (expected ${expected})`);
      return otherwise ?? fallback;
    }
    if (check(value)) return value as T;
    this.invalid(key, `must be ${expected}, not ${shown(value)}`);
    return fallback;
  }
}

/** A value for an error: short, however long it is in the file. */
function shown(value: unknown): string {
  const text = JSON.stringify(value);
  return text.length > 100 ? `${text.slice(0, 100)}…` : text;
}
