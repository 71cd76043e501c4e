import { type Args, builtin } from "./args.js";
import { meter, TemplateRuntimeError } from "./limits.js";
import { isSpace, SPACES } from "./spaces.js";
import {
  bool,
  codePoints,
  dict,
  equal,
  hashKey,
  int,
  isDict,
  isNone,
  isString,
  iterate,
  list,
  none,
  str,
  tuple,
  typeName,
  type Value,
  view,
} from "./values.js";

// biome-ignore lint/suspicious/noControlCharactersInRegex: str.splitlines() ends lines at them
const LINE_END = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/u;
const SPACE_RUN = new RegExp(`[${SPACES}]+`, "u");

/** Python's strip: cuts characters of a set (white space by default) off the ends. */
export function strip(text: string, chars: string | undefined, left: boolean, right: boolean): string {
  const set = chars === undefined ? undefined : new Set(chars);
  const cut = (code: number) => (set ? set.has(String.fromCodePoint(code)) : isSpace(code));
  let start = 0;
  let end = text.length;
  while (left && start < end) {
    const code = text.codePointAt(start)!;
    if (!cut(code)) break;
    start += code > 0xffff ? 2 : 1;
  }
  while (right && end > start) {
    const pair = end - start > 1 ? text.codePointAt(end - 2)! : 0;
    const code = pair > 0xffff ? pair : text.charCodeAt(end - 1);
    if (!cut(code)) break;
    end -= code > 0xffff ? 2 : 1;
  }
  return text.slice(start, end);
}

const stripping = (left: boolean, right: boolean) =>
  builtin("chars? /", (text: string, args) => {
    meter.text(text.length * 2);
    return str(strip(text, args.given(0) && args.text(0), left, right));
  });

/** Pays for a list of texts before it is made. */
const texts = (parts: string[]): Value => {
  meter.spend(parts.length * 2);
  return list(parts.map(str));
};

/** Pays for looking for a part in a text: at worst every character of one meets every one of the other. */
function search(text: string, part: string): void {
  meter.text(text.length);
  if (part.length <= text.length) meter.spend((text.length * part.length) / 512);
}

function occurrences(text: string, part: string): number {
  search(text, part);
  let n = 0;
  for (let at = text.indexOf(part); at >= 0; at = text.indexOf(part, at + part.length)) n++;
  return n;
}

function splitText(text: string, args: Args, fromRight: boolean): Value {
  const most = args.integer(1, -1);
  meter.text(text.length * 2);
  if (!args.given(0)) {
    const trimmed = strip(text, undefined, true, true);
    if (trimmed === "") return list([]);
    if (most >= 0) return texts(splitSpacesLimited(text, most, fromRight));
    return texts(trimmed.split(SPACE_RUN));
  }
  const by = args.text(0);
  if (by === "") throw new TemplateRuntimeError("empty separator");
  meter.spend(occurrences(text, by) * 2);
  const parts = text.split(by);
  if (most >= 0 && parts.length > most + 1) {
    if (fromRight) parts.splice(0, parts.length - most, parts.slice(0, parts.length - most).join(by));
    else parts.splice(most, parts.length, parts.slice(most).join(by));
  }
  return texts(parts);
}

/** At most so many cuts at runs of white space, from one end; the rest keeps the white space of its far end. */
function splitSpacesLimited(text: string, most: number, fromRight: boolean): string[] {
  const parts: string[] = [];
  let rest = strip(text, undefined, !fromRight, fromRight);
  while (parts.length < most && rest !== "") {
    meter.text(64);
    let at = fromRight ? rest.length - 1 : 0;
    const step = fromRight ? -1 : 1;
    while (at >= 0 && at < rest.length && !isSpace(rest.charCodeAt(at))) at += step;
    parts.push(fromRight ? rest.slice(at + 1) : rest.slice(0, at));
    rest = strip(fromRight ? rest.slice(0, Math.max(0, at)) : rest.slice(at), undefined, !fromRight, fromRight);
  }
  if (rest !== "") parts.push(rest);
  return fromRight ? parts.reverse() : parts;
}

const affix = (name: string, test: (text: string, part: string) => boolean) =>
  builtin("part /", (text: string, args) => {
    const wanted = args.get(0)!;
    const options: Value[] = wanted.type === "tuple" ? wanted.value : [wanted];
    for (const x of options) {
      if (!isString(x)) throw new TemplateRuntimeError(`${name} first arg must be str or a tuple of str, not ${typeName(x)}`);
      meter.text(x.value.length);
      if (test(text, x.value)) return bool(true);
    }
    return bool(false);
  });

/** Python's str.replace. */
export function replaceText(text: string, from: string, to: string, count: number): string {
  const found = from === "" ? codePoints(text) + 1 : occurrences(text, from);
  const most = count < 0 ? found : Math.min(count, found);
  meter.text(text.length + most * Math.max(to.length, 8));
  meter.spend(found);
  if (most === found && from !== "") return text.split(from).join(to);
  const parts = from === "" ? ["", ...text, ""] : text.split(from);
  const last = from === "" ? Math.min(most, parts.length - 1) : most;
  const done = parts.slice(0, last + 1).join(to);
  return last < parts.length - 1 ? done + from + parts.slice(last + 1).join(from) : done;
}

const FIRST_TITLED = /^[\u01c4-\u01cc\u01f1-\u01f3\u10d0-\u10ff\u1c90-\u1cbf]/u;

/** A character as the first of a title. Characters whose title form differs from their capital are refused. */
function titled(char: string): string {
  const upper = char.toUpperCase();
  if (FIRST_TITLED.test(char) || (upper !== char && String.fromCodePoint(upper.codePointAt(0)!) !== upper))
    throw new TemplateRuntimeError(`making a title of '${char}' is not supported`);
  return upper;
}

/** Python's str.title: a cased character begins a word unless one stands before it. */
function titleText(text: string): string {
  meter.spend(text.length);
  return text.replace(/\p{Cased}+/gu, (word) => {
    const first = String.fromCodePoint(word.codePointAt(0)!);
    return titled(first) + word.toLowerCase().slice(first.toLowerCase().length);
  });
}

export function capitalizeText(text: string): string {
  meter.text(text.length * 2);
  if (text === "") return "";
  const first = String.fromCodePoint(text.codePointAt(0)!);
  return titled(first) + text.toLowerCase().slice(first.toLowerCase().length);
}

export const lowerText = (text: string): string => {
  meter.text(text.length * 2);
  return text.toLowerCase();
};
export const upperText = (text: string): string => {
  meter.text(text.length * 2);
  return text.toUpperCase();
};
export const isLower = (text: string): boolean => {
  meter.text(text.length * 2);
  return /\p{Lowercase}/u.test(text) && !/[\p{Uppercase}\p{Lt}]/u.test(text);
};
export const isUpper = (text: string): boolean => {
  meter.text(text.length * 2);
  return /\p{Uppercase}/u.test(text) && !/[\p{Lowercase}\p{Lt}]/u.test(text);
};

const cutAt = (text: string, at: number, by: string): Value =>
  tuple([str(text.slice(0, at)), str(by), str(text.slice(at + by.length))]);
const find = (at: (text: string, part: string) => number) =>
  builtin("sub /", (text: string, args) => {
    search(text, args.text(0));
    const found = at(text, args.text(0));
    return int(found < 0 ? -1 : codePoints(text.slice(0, found)));
  });
const made = (make: (text: string) => string) => builtin("", (text: string) => str(make(text)));
const tested = (pattern: RegExp) =>
  builtin("", (text: string) => {
    meter.text(text.length * 2);
    return bool(pattern.test(text));
  });
/** Digits beyond the decimal ones that Python's isdigit() knows: superscripts, circled and the like. */
const DIGIT =
  "\\p{Nd}\\xb2\\xb3\\xb9\\u1369-\\u1371\\u19da\\u2070\\u2074-\\u2079\\u2080-\\u2089\\u2460-\\u2468\\u2474-\\u247c\\u2488-\\u2490\\u24ea\\u24f5-\\u24fd\\u24ff\\u2776-\\u277e\\u2780-\\u2788\\u278a-\\u2792\\u{10a40}-\\u{10a43}\\u{10e60}-\\u{10e68}\\u{11052}-\\u{1105a}\\u{1f100}-\\u{1f10a}";

/** Methods of Python's str that templates use. */
export const STRING_METHODS = {
  strip: stripping(true, true),
  lstrip: stripping(true, false),
  rstrip: stripping(false, true),
  split: builtin("sep? maxsplit?", (text: string, args) => splitText(text, args, false)),
  rsplit: builtin("sep? maxsplit?", (text: string, args) => splitText(text, args, true)),
  splitlines: builtin("", (text: string) => texts(lines(text))),
  startswith: affix("startswith", (text, part) => text.startsWith(part)),
  endswith: affix("endswith", (text, part) => text.endsWith(part)),
  replace: builtin("old new count? /", (text: string, args) =>
    str(replaceText(text, args.text(0), args.text(1), args.integer(2, -1))),
  ),
  upper: made(upperText),
  lower: made(lowerText),
  title: made(titleText),
  capitalize: made(capitalizeText),
  removeprefix: builtin("prefix /", (text: string, args) => {
    const prefix = args.text(0);
    return str(text.startsWith(prefix) ? text.slice(prefix.length) : text);
  }),
  removesuffix: builtin("suffix /", (text: string, args) => {
    const suffix = args.text(0);
    return str(suffix !== "" && text.endsWith(suffix) ? text.slice(0, -suffix.length) : text);
  }),
  find: find((text, part) => text.indexOf(part)),
  rfind: find((text, part) => text.lastIndexOf(part)),
  count: builtin("sub /", (text: string, args) => {
    const part = args.text(0);
    return int(part === "" ? codePoints(text) + 1 : occurrences(text, part));
  }),
  partition: builtin("sep /", (text: string, args) => {
    const by = args.text(0);
    if (by === "") throw new TemplateRuntimeError("empty separator");
    search(text, by);
    const at = text.indexOf(by);
    return at < 0 ? tuple([str(text), str(""), str("")]) : cutAt(text, at, by);
  }),
  rpartition: builtin("sep /", (text: string, args) => {
    const by = args.text(0);
    if (by === "") throw new TemplateRuntimeError("empty separator");
    search(text, by);
    const at = text.lastIndexOf(by);
    return at < 0 ? tuple([str(""), str(""), str(text)]) : cutAt(text, at, by);
  }),
  join: builtin("iterable /", (text: string, args) => {
    const parts = iterate(args.get(0)!).map((x) => {
      if (!isString(x)) throw new TemplateRuntimeError(`sequence item: expected str instance, ${typeName(x)} found`);
      return x.value as string;
    });
    return str(joined(parts, text));
  }),
  isdigit: tested(new RegExp(`^[${DIGIT}]+$`, "u")),
  isdecimal: tested(/^\p{Nd}+$/u),
  isalpha: tested(/^\p{L}+$/u),
  isalnum: tested(/^[\p{L}\p{N}]+$/u),
  isspace: tested(new RegExp(`^[${SPACES}]+$`, "u")),
  isupper: builtin("", (text: string) => bool(isUpper(text))),
  islower: builtin("", (text: string) => bool(isLower(text))),
};

/** Python's str.splitlines. */
export function lines(text: string): string[] {
  meter.text(text.length * 4);
  const out = text.split(LINE_END);
  if (out.at(-1) === "") out.pop();
  meter.spend(out.length);
  return out;
}

/** Texts with another between them, paid for before they are joined. */
export function joined(parts: readonly string[], between: string): string {
  meter.text(parts.reduce((n, part) => n + part.length, parts.length * (between.length + 8)));
  return parts.join(between);
}

type Entries = Map<string, Value>;

/** Methods of Python's dict that do not change it. */
export const DICT_METHODS = {
  get: builtin("key default? /", (map: Entries, args) => {
    const key = args.get(0)!;
    if (!isString(key)) hashKey(key);
    return (isString(key) ? map.get(key.value) : undefined) ?? args.get(1) ?? none;
  }),
  items: builtin("", (map: Entries) => view("dict_items", pairs(map))),
  keys: builtin("", (map: Entries) => {
    meter.spend(map.size);
    return view("dict_keys", Array.from(map.keys(), str));
  }),
  values: builtin("", (map: Entries) => {
    meter.spend(map.size);
    return view("dict_values", [...map.values()]);
  }),
  copy: builtin("", (map: Entries) => {
    meter.spend(map.size * 2);
    return dict(new Map(map));
  }),
};

export function pairs(map: Entries): Value[] {
  meter.spend(map.size * 4);
  return Array.from(map, ([k, v]) => tuple([str(k), v]));
}

/** Methods of Python's list and tuple that do not change them. */
export const SEQUENCE_METHODS = {
  index: builtin("value /", (self: Value, args) => {
    const at = self.value.findIndex((x: Value) => equal(x, args.get(0)!));
    if (at < 0) throw new TemplateRuntimeError("the value is not in the list");
    return int(at);
  }),
  count: builtin("value /", (self: Value, args) => int(self.value.filter((x: Value) => equal(x, args.get(0)!)).length)),
  copy: builtin("", (self: Value) => {
    meter.spend(self.value.length);
    return list([...self.value]);
  }),
};

/** True when `needle in haystack` holds, with Python's errors. */
export function contains(haystack: Value, needle: Value): boolean {
  if (isString(haystack)) {
    if (!isString(needle))
      throw new TemplateRuntimeError(`'in <string>' requires string as left operand, not ${typeName(needle)}`);
    search(haystack.value, needle.value);
    return haystack.value.includes(needle.value);
  }
  if (isDict(haystack)) {
    if (!isString(needle)) hashKey(needle);
    return isString(needle) && haystack.value.has(needle.value);
  }
  if (isNone(haystack)) throw new TemplateRuntimeError("argument of type 'NoneType' is not iterable");
  // Python looks keys and pairs up by their hash.
  if (haystack.type === "view" && haystack.value.name === "dict_keys") hashKey(needle);
  if (haystack.type === "view" && haystack.value.name === "dict_items" && needle.type === "tuple" && needle.value.length === 2)
    hashKey(needle.value[0]);
  return iterate(haystack).some((x) => equal(x, needle));
}
