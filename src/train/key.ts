/** What values the keys of a training configuration take. */
import type { Json } from "../io/json.js";

/** What a key takes: `read` gives the value, or the sentence of what was expected. */
export interface Key {
  default: Json;
  expected: string;
  read(value: Json): Json | undefined;
}

export const key = (value: Json, expected: string, read: (value: Json) => Json | undefined): Key => ({
  default: value,
  expected,
  read,
});
export const orNull = ({ default: value, expected, read }: Key): Key =>
  key(value, `${expected} or null`, (v) => (v === null ? null : read(v)));
export const text = (value: Json = null) => key(value, "text", (v) => (typeof v === "string" && v.trim() !== "" ? v : undefined));
export const flag = (value = false) => key(value, "true or false", (v) => (typeof v === "boolean" ? v : undefined));
/** One of some texts; an unquoted `no` is false in YAML 1.1. */
export const choice = (value: string, choices: readonly string[]) =>
  key(value, `one of ${choices.join(", ")}`, (v) => {
    const text = v === false ? "no" : v;
    return typeof text === "string" && choices.includes(text) ? text : undefined;
  });
export const number = (value: number | null, low: number, high = Number.MAX_VALUE, lowIsOut = false) =>
  key(
    value,
    `a number ${lowIsOut ? "above" : "from"} ${low}${high === Number.MAX_VALUE ? "" : ` to ${high}`}${lowIsOut ? "" : high === Number.MAX_VALUE ? " on" : ""}`,
    (v) => (typeof v === "number" && Number.isFinite(v) && (lowIsOut ? v > low : v >= low) && v <= high ? v : undefined),
  );
export const integer = (value: number | null, low: number, high = Number.MAX_SAFE_INTEGER) =>
  key(value, `an integer from ${low} ${high === Number.MAX_SAFE_INTEGER ? "on" : `to ${high}`}`, (v) =>
    typeof v === "number" && Number.isInteger(v) && v >= low && v <= high ? v : undefined,
  );
/** A list, or LLaMA-Factory's one text with commas. */
export const list = (value: Json) =>
  key(value, "names, as a list or one text with commas", (v) => {
    const items = typeof v === "string" ? v.split(",").map((item) => item.trim()) : v;
    return Array.isArray(items) && items.length > 0 && items.every((item) => typeof item === "string" && item !== "")
      ? items
      : undefined;
  });
export const isObject = (v: Json) => v !== null && typeof v === "object" && !Array.isArray(v);
/** A share below 1, or a count: 1 on, where only integers make sense. */
export const shareOrCount = (value: number | null, low = 0) =>
  key(value, "a share below 1 or a whole count", (v) =>
    typeof v === "number" && v >= low && Number.isFinite(v) && (v < 1 || Number.isInteger(v)) ? v : undefined,
  );

export const byteCount = key(null, "a number of bytes, or one with KiB, MiB or GiB", (v) => {
  const [, digits, unit = ""] = /^([\d.]+) *(?:([KMG])i?B?)?$/i.exec(String(v)) ?? [];
  const bytes = Math.round(Number(digits) * 1024 ** ["", "K", "M", "G"].indexOf(unit.toUpperCase()));
  return Number.isSafeInteger(bytes) && bytes > 0 ? bytes : undefined;
});

/** The file's name of a key: adamBeta1 → adam_beta1. */
export const fileName = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
