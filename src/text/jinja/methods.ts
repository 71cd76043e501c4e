import {
  bool,
  dict,
  equal,
  int,
  isInteger,
  isList,
  isNone,
  isString,
  iterate,
  list,
  none,
  str,
  TemplateRuntimeError,
  tuple,
  typeName,
  type Value,
} from "./values.js";

/** Positional and keyword arguments of a call. */
export class Args {
  readonly positional: Value[];
  readonly keywords: ReadonlyMap<string, Value>;

  constructor(
    private readonly name: string,
    args: Value[],
  ) {
    const last = args.at(-1);
    const hasKeywords = last?.type === "KeywordArgumentsValue";
    this.positional = hasKeywords ? args.slice(0, -1) : args;
    this.keywords = hasKeywords ? last.value : new Map();
  }

  get(index: number, keyword?: string): Value | undefined {
    return this.positional[index] ?? (keyword === undefined ? undefined : this.keywords.get(keyword));
  }

  text(index: number, keyword?: string): string {
    const v = this.get(index, keyword);
    if (!isString(v))
      throw new TemplateRuntimeError(`${this.name}() argument ${index + 1} must be str, not ${v ? typeName(v) : "absent"}`);
    return v!.value;
  }

  /** An absent or None argument gives the default. */
  integer(index: number, keyword: string, otherwise: number): number {
    const v = this.get(index, keyword);
    if (v === undefined || isNone(v)) return otherwise;
    if (!isInteger(v)) throw new TemplateRuntimeError(`${this.name}() argument ${keyword} must be int, not ${typeName(v)}`);
    return Number(v.value);
  }
}

/** What Python's str.strip() and str.split() take for white space. */
const SPACES = "\\t-\\r\\x1c-\\x20\\x85\\xa0\\u1680\\u2000-\\u200a\\u2028\\u2029\\u202f\\u205f\\u3000";
// biome-ignore lint/suspicious/noControlCharactersInRegex: str.splitlines() ends lines at them
const LINE_END = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/u;
const SPACE_RUN = new RegExp(`[${SPACES}]+`, "u");
const SPACE = new RegExp(`^[${SPACES}]$`, "u");

/** Python's strip: cuts characters of a set (white space by default) off the ends. */
export function strip(text: string, chars: string | undefined, left: boolean, right: boolean): string {
  const set = chars === undefined ? undefined : new Set(chars);
  const cut = (char: string) => (set ? set.has(char) : SPACE.test(char));
  let start = 0;
  let end = text.length;
  while (left && start < end) {
    const char = String.fromCodePoint(text.codePointAt(start)!);
    if (!cut(char)) break;
    start += char.length;
  }
  while (right && end > start) {
    const pair = end - start > 1 && /[\udc00-\udfff]/.test(text[end - 1]!) && /[\ud800-\udbff]/.test(text[end - 2]!);
    const char = text.slice(pair ? end - 2 : end - 1, end);
    if (!cut(char)) break;
    end -= char.length;
  }
  return text.slice(start, end);
}

function stripWith(name: string, left: boolean, right: boolean) {
  return (text: string, args: Args) => {
    const chars = args.get(0, "chars");
    if (chars !== undefined && !isString(chars) && !isNone(chars))
      throw new TemplateRuntimeError(`${name} arg must be None or str`);
    return str(strip(text, isString(chars) ? chars!.value : undefined, left, right));
  };
}

function splitText(text: string, args: Args, fromRight: boolean): Value {
  const separator = args.get(0, "sep");
  const most = args.integer(1, "maxsplit", -1);
  if (separator === undefined || isNone(separator)) {
    const trimmed = strip(text, undefined, true, true);
    if (trimmed === "") return list([]);
    if (most >= 0) return splitSpacesLimited(text, most, fromRight);
    return list(trimmed.split(SPACE_RUN).map(str));
  }
  const by = args.text(0, "sep");
  if (by === "") throw new TemplateRuntimeError("empty separator");
  const parts = text.split(by);
  if (most >= 0 && parts.length > most + 1) {
    if (fromRight) parts.unshift(parts.splice(0, parts.length - most).join(by));
    else parts.push(parts.splice(most).join(by));
  }
  return list(parts.map(str));
}

function splitSpacesLimited(text: string, most: number, fromRight: boolean): Value {
  let rest = strip(text, undefined, !fromRight, fromRight);
  const parts: string[] = [];
  while (parts.length < most && rest !== "") {
    const gap = fromRight ? rest.match(new RegExp(`[${SPACES}]+(?=[^${SPACES}]*$)`, "u")) : rest.match(SPACE_RUN);
    if (!gap || gap.index === undefined || (fromRight && gap.index === 0)) break;
    parts.push(fromRight ? rest.slice(gap.index + gap[0].length) : rest.slice(0, gap.index));
    rest = fromRight ? rest.slice(0, gap.index) : rest.slice(gap.index + gap[0].length);
  }
  const limited = parts.length >= most;
  const last = strip(rest, undefined, !(limited && fromRight), !(limited && !fromRight));
  if (last !== "") parts.push(last);
  return list((fromRight ? parts.reverse() : parts).map(str));
}

function affix(name: string, test: (text: string, part: string) => boolean) {
  return (text: string, args: Args) => {
    const wanted = args.get(0);
    if (wanted?.type === "TupleValue") return bool(wanted.value.some((x: Value) => isString(x) && test(text, x.value)));
    if (!isString(wanted)) throw new TemplateRuntimeError(`${name} first arg must be str or a tuple of str`);
    return bool(test(text, wanted!.value));
  };
}

/** Python's str.replace. */
export function replaceText(text: string, from: string, to: string, count: number): string {
  if (count < 0 && from !== "") return text.split(from).join(to);
  const parts = from === "" ? ["", ...text, ""] : text.split(from);
  const most = count < 0 ? parts.length - 1 : Math.min(count, parts.length - 1);
  return parts.slice(0, most + 1).join(to) + (most < parts.length - 1 ? from + parts.slice(most + 1).join(from) : "");
}

export const titleText = (text: string) =>
  text.replace(/\p{L}[\p{L}\p{M}]*/gu, (word) => word[0]!.toUpperCase() + word.slice(1).toLowerCase());
export const capitalizeText = (text: string) => {
  const first = text === "" ? "" : String.fromCodePoint(text.codePointAt(0)!);
  return first.toUpperCase() + text.slice(first.length).toLowerCase();
};

const codePoints = (text: string, units: number) => (units < 0 ? -1 : Array.from(text.slice(0, units)).length);
function partition(text: string, at: number, by: string): Value {
  return tuple([str(text.slice(0, at)), str(by), str(text.slice(at + by.length))]);
}

/** Methods of Python's str that templates use. */
export const STRING_METHODS: Readonly<Record<string, (text: string, args: Args) => Value>> = {
  strip: stripWith("strip", true, true),
  lstrip: stripWith("lstrip", true, false),
  rstrip: stripWith("rstrip", false, true),
  split: (text, args) => splitText(text, args, false),
  rsplit: (text, args) => splitText(text, args, true),
  splitlines: (text) => {
    const lines = text.split(LINE_END);
    if (lines.at(-1) === "") lines.pop();
    return list(lines.map(str));
  },
  startswith: affix("startswith", (text, part) => text.startsWith(part)),
  endswith: affix("endswith", (text, part) => text.endsWith(part)),
  replace: (text, args) => str(replaceText(text, args.text(0), args.text(1), args.integer(2, "count", -1))),
  upper: (text) => str(text.toUpperCase()),
  lower: (text) => str(text.toLowerCase()),
  title: (text) => str(titleText(text)),
  capitalize: (text) => str(capitalizeText(text)),
  removeprefix: (text, args) => str(text.startsWith(args.text(0)) ? text.slice(args.text(0).length) : text),
  removesuffix: (text, args) =>
    str(args.text(0) !== "" && text.endsWith(args.text(0)) ? text.slice(0, -args.text(0).length) : text),
  find: (text, args) => int(codePoints(text, text.indexOf(args.text(0)))),
  rfind: (text, args) => int(codePoints(text, text.lastIndexOf(args.text(0)))),
  count: (text, args) => int(args.text(0) === "" ? Array.from(text).length + 1 : text.split(args.text(0)).length - 1),
  partition: (text, args) => {
    const at = text.indexOf(args.text(0));
    return at < 0 ? tuple([str(text), str(""), str("")]) : partition(text, at, args.text(0));
  },
  rpartition: (text, args) => {
    const at = text.lastIndexOf(args.text(0));
    return at < 0 ? tuple([str(""), str(""), str(text)]) : partition(text, at, args.text(0));
  },
  join: (text, args) => {
    const parts = iterate(args.get(0) ?? none).map((x) => {
      if (!isString(x)) throw new TemplateRuntimeError(`sequence item: expected str instance, ${typeName(x)} found`);
      return x.value as string;
    });
    return str(parts.join(text));
  },
  isdigit: (text) => bool(/^\p{Nd}+$/u.test(text)),
  isalpha: (text) => bool(/^\p{L}+$/u.test(text)),
  isalnum: (text) => bool(/^[\p{L}\p{N}]+$/u.test(text)),
  isspace: (text) => bool(text !== "" && strip(text, undefined, true, true) === ""),
  isupper: (text) => bool(text === text.toUpperCase() && text !== text.toLowerCase()),
  islower: (text) => bool(text === text.toLowerCase() && text !== text.toUpperCase()),
};

/** Methods of Python's dict that do not change it. */
export const DICT_METHODS: Readonly<Record<string, (map: Map<string, Value>, args: Args) => Value>> = {
  get: (map, args) => {
    const key = args.get(0);
    return (isString(key) ? map.get(key!.value) : undefined) ?? args.get(1, "default") ?? none;
  },
  items: (map) => list([...map].map(([k, v]) => tuple([str(k), v]))),
  keys: (map) => list([...map.keys()].map(str)),
  values: (map) => list([...map.values()]),
  copy: (map) => dict(new Map(map)),
};

/** Methods of Python's list that do not change it. */
export const LIST_METHODS: Readonly<Record<string, (items: Value[], args: Args) => Value>> = {
  index: (items, args) => {
    const at = items.findIndex((x) => equal(x, args.get(0) ?? none));
    if (at < 0) throw new TemplateRuntimeError("the value is not in the list");
    return int(at);
  },
  count: (items, args) => int(items.filter((x) => equal(x, args.get(0) ?? none)).length),
};

/** True when `needle in haystack` holds, with Python's errors. */
export function contains(haystack: Value, needle: Value): boolean {
  if (isString(haystack)) {
    if (!isString(needle))
      throw new TemplateRuntimeError(`'in <string>' requires string as left operand, not ${typeName(needle)}`);
    return haystack.value.includes(needle.value);
  }
  if (isList(haystack)) return haystack.value.some((x: Value) => equal(x, needle));
  return iterate(haystack).some((x) => equal(x, needle));
}
