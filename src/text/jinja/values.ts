import { meter, TemplateRuntimeError } from "./limits.js";

export type Type =
  | "str"
  | "markup"
  | "int"
  | "float"
  | "bool"
  | "none"
  | "undefined"
  | "list"
  | "tuple"
  | "range"
  | "view"
  | "iterator"
  | "dict"
  | "namespace"
  | "loop"
  | "function";

/** A value while a template runs. What it holds depends on its type: see the makers below. */
export class Value {
  constructor(
    readonly type: Type,
    // biome-ignore lint/suspicious/noExplicitAny: depends on `type`
    readonly value: any,
  ) {}
}

/** A function as templates call it. */
export type Call = (positional: Value[], keywords: ReadonlyMap<string, Value>) => Value;

export const str = (value: string): Value => new Value("str", value);
/** Text that counts as HTML-safe in Python: it can be printed, and little else is done with it here. */
export const markup = (value: string): Value => new Value("markup", value);
/** Whole numbers are exact: beyond 53 bits they are bigints. */
export const int = (value: number | bigint): Value => new Value("int", value);
export const float = (value: number): Value => new Value("float", value);
export const list = (value: Value[]): Value => new Value("list", value);
export const tuple = (value: Value[]): Value => new Value("tuple", value);
export const dict = (value: Map<string, Value>): Value => new Value("dict", value);
export const fn = (value: Call): Value => new Value("function", value);
/** `dict.items()` and its like: has a length and can be walked, but not indexed. */
export const view = (name: "dict_items" | "dict_keys" | "dict_values", items: Value[]): Value =>
  new Value("view", { name, items });
/** A generator: made when first read, read once, always true. */
export const iterator = (make: () => Value[]): Value => new Value("iterator", { make, items: undefined, at: 0 });
export const none: Value = new Value("none", null);
export const undef: Value = new Value("undefined", undefined);
const TRUE = new Value("bool", true);
const FALSE = new Value("bool", false);
export const bool = (value: boolean): Value => (value ? TRUE : FALSE);

export const isString = (v: Value | undefined): v is Value & { readonly type: "str" } => v?.type === "str";
export const isUndefined = (v: Value | undefined): boolean => v === undefined || v.type === "undefined";
export const isNone = (v: Value | undefined): boolean => v?.type === "none";
export const isDict = (v: Value | undefined): boolean => v?.type === "dict";
export const isInteger = (v: Value | undefined): boolean => v?.type === "int";
export const isFloat = (v: Value | undefined): boolean => v?.type === "float";
export const isBoolean = (v: Value | undefined): boolean => v?.type === "bool";
/** Python counts booleans as numbers. */
export const isNumber = (v: Value | undefined): boolean => isInteger(v) || isFloat(v) || isBoolean(v);
/** A list, tuple or range: what can be indexed by number. */
export const isSequence = (v: Value | undefined): boolean => v?.type === "list" || v?.type === "tuple" || v?.type === "range";

/** Python's name of a value's type, for messages. */
export const typeName = (v: Value): string => (v.type === "none" ? "NoneType" : v.type === "view" ? v.value.name : v.type);

export function truthy(v: Value): boolean {
  switch (v.type) {
    case "list":
    case "tuple":
      return v.value.length > 0;
    case "range":
      return v.value.items.length > 0;
    case "view":
      return v.value.items.length > 0;
    case "dict":
      return v.value.size > 0;
    case "loop":
      return true;
    case "iterator":
    case "namespace":
    case "function":
      return true;
    default:
      return Boolean(v.value);
  }
}

/** A JavaScript value as a template sees it. A `Number` object is a float even when it is whole: JSON's 1.0. */
export function fromJs(input: unknown): Value {
  if (input === null) return none;
  if (input === undefined) return undef;
  if (typeof input === "string") return str(input);
  if (typeof input === "boolean") return bool(input);
  if (typeof input === "bigint") return int(small(input));
  if (typeof input === "number") return Number.isSafeInteger(input) && !Object.is(input, -0) ? int(input) : float(input);
  if (input instanceof Number) return float(input.valueOf());
  if (Array.isArray(input)) return list(input.map(fromJs));
  if (typeof input === "object") return dict(new Map(Object.entries(input).map(([k, v]) => [k, fromJs(v)])));
  throw new TemplateRuntimeError(`a ${typeof input} cannot be given to a template`);
}

/** A whole number as a plain number where that is exact. */
export const small = (n: bigint): number | bigint =>
  n >= Number.MIN_SAFE_INTEGER && n <= Number.MAX_SAFE_INTEGER ? Number(n) : n;

/** The items of what holds several, not read from an iterator; undefined for anything else. */
export function itemsOf(v: Value): Value[] | undefined {
  switch (v.type) {
    case "list":
    case "tuple":
      return v.value;
    case "range":
    case "view":
      return v.value.items;
    case "undefined":
      return [];
    case "dict":
      meter.spend(v.value.size * 2);
      return Array.from(v.value.keys() as Iterable<string>, str);
    case "str":
      meter.spend(v.value.length * 2);
      return Array.from(v.value as string, str);
    default:
      return undefined;
  }
}

/** Elements of what `for`, `in` and list filters accept; reads an iterator to its end. */
export function iterate(v: Value): Value[] {
  if (v.type === "iterator") {
    const rest = pending(v);
    v.value.at = v.value.items.length;
    return rest;
  }
  const items = itemsOf(v);
  if (!items) throw new TemplateRuntimeError(`'${typeName(v)}' object is not iterable`);
  return items;
}

function pending(v: Value): Value[] {
  v.value.items ??= v.value.make();
  meter.spend(v.value.items.length - v.value.at);
  return v.value.at === 0 ? v.value.items : v.value.items.slice(v.value.at);
}

/** The next element, which an iterator gives up. */
export function firstOf(v: Value): Value | undefined {
  if (v.type !== "iterator") return v.type === "str" ? firstCharacter(v.value) : iterate(v)[0];
  const [first] = pending(v);
  if (first) v.value.at++;
  return first;
}

const firstCharacter = (text: string) => (text === "" ? undefined : str(String.fromCodePoint(text.codePointAt(0)!)));

/** Python's len(). */
export function lengthOf(v: Value): number {
  if (v.type === "str") return codePoints(v.value);
  if (v.type === "dict") return v.value.size;
  if (v.type === "loop") return v.value.length();
  const items = itemsOf(v);
  if (!items) throw new TemplateRuntimeError(`object of type '${typeName(v)}' has no len()`);
  return items.length;
}

/** Characters as Python counts them. */
export function codePoints(text: string): number {
  meter.text(text.length * 2);
  let n = text.length;
  for (let i = 1; i < text.length; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xdc00 && (text.charCodeAt(i - 1) & 0xfc00) === 0xd800) n--;
  }
  return n;
}

/** Order of two texts by code point. */
export function compareText(a: string, b: string): number {
  const n = Math.min(a.length, b.length);
  meter.text(n);
  for (let i = 0; i < n; i++) {
    const [x, y] = [a.charCodeAt(i), b.charCodeAt(i)];
    if (x !== y) {
      // A surrogate stands for a character above all others.
      const [s, t] = [x >= 0xd800 && x < 0xe000, y >= 0xd800 && y < 0xe000];
      return s === t ? x - y : s ? 1 : -1;
    }
  }
  return a.length - b.length;
}

/** Python's ==. */
export function equal(a: Value, b: Value): boolean {
  meter.spend(1);
  if (isNumber(a) && isNumber(b)) {
    const [x, y] = [numberOf(a), numberOf(b)];
    // A bigint and a number compare exactly.
    return typeof x === typeof y ? x === y : x >= y && x <= y;
  }
  if (a.type !== b.type) return false;
  switch (a.type) {
    case "list":
    case "tuple":
      return a.value.length === b.value.length && a.value.every((x: Value, i: number) => equal(x, b.value[i]));
    case "range":
      return equal(list(a.value.items), list(b.value.items));
    case "dict":
      if (a.value.size !== b.value.size) return false;
      for (const [key, value] of a.value) if (!b.value.has(key) || !equal(value, b.value.get(key))) return false;
      return true;
    case "view":
      throw new TemplateRuntimeError(`comparing two ${typeName(a)} is not supported`);
    case "str":
      meter.text(Math.min(a.value.length, b.value.length));
      return a.value === b.value;
    case "none":
    case "undefined":
      return true;
    default:
      return a === b || (a.type === "markup" && a.value === b.value);
  }
}

/** The number in an int, float or bool. */
export const numberOf = (v: Value): number | bigint => (typeof v.value === "boolean" ? Number(v.value) : v.value);

/** Order of two numbers, two texts or two lists; anything else cannot be ordered. NaN where neither comes first. */
export function compare(a: Value, b: Value): number {
  meter.spend(1);
  if (isNumber(a) && isNumber(b)) {
    const [x, y] = [numberOf(a), numberOf(b)];
    return x < y ? -1 : x > y ? 1 : x >= y ? 0 : Number.NaN;
  }
  if (isString(a) && isString(b)) return compareText(a.value, b.value);
  if ((a.type === "list" || a.type === "tuple") && a.type === b.type) {
    for (let i = 0; i < Math.min(a.value.length, b.value.length); i++) {
      if (!equal(a.value[i], b.value[i])) return compare(a.value[i], b.value[i]);
    }
    return a.value.length - b.value.length;
  }
  throw new TemplateRuntimeError(`'<' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}

/** The same for values that Python's hash and == take for one key. @throws for lists and dicts, which have no hash */
export function hashKey(v: Value): string {
  meter.spend(1);
  if (isNumber(v)) return `n${numberOf(v)}`;
  if (v.type === "str") {
    meter.text(v.value.length);
    return `s${v.value.length}:${v.value}`;
  }
  if (v.type === "none" || v.type === "undefined") return v.type;
  if (v.type === "tuple") return `(${v.value.map(hashKey).join(",")})`;
  throw new TemplateRuntimeError(`unhashable type: '${typeName(v)}'`);
}
