import { Args, type Builtin, builtin } from "./args.js";
import { getItem } from "./attributes.js";
import { meter, TemplateRuntimeError } from "./limits.js";
import { capitalizeText, joined, lines, lowerText, pairs, replaceText, strip, upperText } from "./methods.js";
import { binary } from "./operators.js";
import { json, text } from "./print.js";
import { SPACES } from "./spaces.js";
import { test } from "./tests.js";
import {
  compare,
  dict,
  firstOf,
  float,
  hashKey,
  int,
  isDict,
  isFloat,
  isNone,
  isNumber,
  isString,
  isUndefined,
  iterate,
  iterator,
  lengthOf,
  list,
  markup,
  numberOf,
  small,
  str,
  truthy,
  typeName,
  undef,
  type Value,
} from "./values.js";

/** `a.b.0` of an item, as the `attribute` argument of filters means it. */
function path(attribute: Value | undefined): (item: Value) => Value {
  if (attribute === undefined) return (item) => item;
  const keys = isString(attribute)
    ? (attribute.value as string).split(".").map((part) => (/^\d+$/.test(part) ? int(small(BigInt(part))) : str(part)))
    : [attribute];
  return (item) => {
    meter.spend(keys.length);
    return keys.reduce((value, key) => getItem(value, key, "an item on the way to the attribute"), item);
  };
}

/** Case does not count when texts are sorted or compared, unless asked for. */
const folding = (caseSensitive: boolean) => (v: Value) => (isString(v) && !caseSensitive ? str(lowerText(v.value)) : v);

/** Sorts by keys made once; Python's sort compares with `<` alone and keeps the order of equals. */
function sortedBy(items: readonly Value[], key: (v: Value) => Value, reverse: boolean): Value[] {
  meter.spend(items.length * 4);
  const sign = reverse ? -1 : 1;
  return items
    .map((item) => ({ item, key: key(item) }))
    .sort((a, b) => {
      const order = compare(a.key, b.key);
      if (Number.isNaN(order)) throw new TemplateRuntimeError("sorting NaN is not supported");
      return sign * order;
    })
    .map((x) => x.item);
}

/** select, reject, selectattr and rejectattr: generators, which is why a condition finds them always true. */
const selecting = (keep: boolean, withAttribute: boolean) =>
  builtin("*", (input: Value, args) =>
    iterator(() => {
      if (!truthy(input)) return [];
      const rest = args.positional.slice(withAttribute ? 1 : 0);
      if (withAttribute && args.positional.length === 0) throw new TemplateRuntimeError("Missing parameter for attribute name");
      const value = withAttribute ? path(args.positional[0]) : (item: Value) => item;
      const [name, ...others] = rest;
      const passes = name ? (v: Value) => test(nameOf(name), v, others, args.keywords) : truthy;
      return iterate(input).filter((item) => {
        meter.spend(1);
        return passes(value(item)) === keep;
      });
    }),
  );

function nameOf(v: Value): string {
  if (!isString(v)) throw new TemplateRuntimeError(`No filter or test named '${text(v)}'.`);
  return v.value;
}

const extreme = (sign: number) =>
  builtin("case_sensitive? attribute?", (input: Value, args) => {
    const fold = folding(args.flag(0));
    const value = path(args.given(1));
    let best: { item: Value; key: Value } | undefined;
    for (const item of iterate(input)) {
      const key = fold(value(item));
      if (!best || sign * compare(key, best.key) > 0) best = { item, key };
    }
    return best?.item ?? undef;
  });

function intFilter(v: Value, args: Args): Value {
  const otherwise = args.get(0) ?? int(0);
  if (args.get(1) && numberOf(args.get(1)!) !== 10)
    throw new TemplateRuntimeError("int with another base than 10 is not supported");
  if (isUndefined(v)) throw new TemplateRuntimeError("an undefined value cannot be made an int");
  if (isFloat(v)) return truncated(v.value, otherwise, true);
  if (isNumber(v)) return int(numberOf(v));
  if (!isString(v)) return otherwise;
  const digits = numeral(v.value);
  if (/^[+-]?\d+(_\d+)*$/.test(digits)) {
    if (digits.length > 4300) return otherwise;
    return int(small(BigInt(digits.replace(/^\+/, "").replaceAll("_", ""))));
  }
  const x = parseFloatText(digits);
  return x === undefined ? otherwise : truncated(x, otherwise, false);
}

function truncated(x: number, otherwise: Value, strict: boolean): Value {
  if (Number.isFinite(x)) return int(small(BigInt(Math.trunc(x))));
  if (strict && !Number.isNaN(x)) throw new TemplateRuntimeError("cannot convert float infinity to integer");
  return otherwise;
}

/** The text of a number without white space around it. Digits of other scripts, which Python reads too, are refused. */
function numeral(v: string): string {
  meter.text(v.length * 4);
  const digits = strip(v, undefined, true, true);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: ASCII
  if (/\p{Nd}/u.test(digits.replace(/[\x00-\x7f]+/g, "")))
    throw new TemplateRuntimeError("digits beyond ASCII are not supported");
  return digits;
}

/** Python's float() of a text. */
function parseFloatText(v: string): number | undefined {
  if (/^[+-]?(\d+(_\d+)*(\.(\d+(_\d+)*)?)?|\.\d+(_\d+)*)(e[+-]?\d+(_\d+)*)?$/i.test(v)) return Number(v.replaceAll("_", ""));
  const special = /^([+-]?)(nan|inf|infinity)$/i.exec(v);
  if (!special) return undefined;
  return special[2]!.toLowerCase() === "nan" ? Number.NaN : special[1] === "-" ? -Infinity : Infinity;
}

function floatFilter(v: Value, args: Args): Value {
  const otherwise = args.get(0) ?? float(0);
  if (isUndefined(v)) throw new TemplateRuntimeError("an undefined value cannot be made a float");
  if (isNumber(v)) return float(Number(numberOf(v)));
  const x = isString(v) ? parseFloatText(numeral(v.value)) : undefined;
  return x === undefined ? otherwise : float(x);
}

/** transformers' tojson(x, ensure_ascii, indent, separators, sort_keys). */
function jsonFilter(input: Value, args: Args): Value {
  const indent = args.given(1);
  const separators = args.given(2);
  if (
    separators &&
    !(
      (separators.type === "tuple" || separators.type === "list") &&
      separators.value.length === 2 &&
      separators.value.every(isString)
    )
  )
    throw new TemplateRuntimeError("tojson: separators must be two texts");
  const width = indent && !isString(indent) ? args.integer(1, 0) : 0;
  meter.text(Math.max(0, width));
  return str(
    json(input, {
      ensureAscii: args.flag(0),
      indent: indent && (isString(indent) ? indent.value : " ".repeat(Math.max(0, width))),
      separators: separators && [separators.value[0].value, separators.value[1].value],
      sortKeys: args.flag(3),
    }),
  );
}

function indentFilter(input: Value, args: Args): Value {
  if (!isString(input)) throw new TemplateRuntimeError(`indent needs a text, not ${typeName(input)}`);
  const width = args.get(0);
  const size = width && isString(width) ? width.value.length : Math.max(0, args.integer(0, 4));
  const parts = lines(`${input.value}\n`);
  meter.text(input.value.length + parts.length * (size + 8));
  const pad = width && isString(width) ? width.value : " ".repeat(size);
  const [first = "", ...rest] = parts;
  const all = [first, ...rest.map((line) => (args.flag(2) || line !== "" ? pad + line : line))].join("\n");
  return str(args.flag(1) ? pad + all : all);
}

function roundFilter(input: Value, args: Args): Value {
  const places = args.integer(0, 0);
  const method = args.get(1) ? args.text(1) : "common";
  if (!["common", "ceil", "floor"].includes(method)) throw new TemplateRuntimeError("method must be common, ceil or floor");
  if (!isNumber(input)) throw new TemplateRuntimeError(`round needs a number, not ${typeName(input)}`);
  if (places < 0 || places > 15) throw new TemplateRuntimeError(`round to ${places} places is not supported`);
  const x = Number(numberOf(input));
  if (method === "common" && !isFloat(input)) return int(numberOf(input));
  if (!(Math.abs(x) < 1e15)) throw new TemplateRuntimeError(`round of ${text(input)} is not supported`);
  if (method !== "common") {
    const scale = isFloat(input) || places > 0 ? 10 ** places : 1;
    return float((method === "ceil" ? Math.ceil(x * scale) : Math.floor(x * scale)) / scale);
  }
  meter.spend(32);
  // Python rounds the exact value, and halves to even; toFixed rounds the exact value, and halves up.
  const exact = Math.abs(x).toFixed(100);
  const at = exact.indexOf(".") + places + 1;
  const tie = /^50*$/.test(exact.slice(at));
  const down = exact.slice(0, at).replace(/\.$/, "");
  const rounded = tie && Number(down.at(-1)) % 2 === 0 ? Number(down) : Number(Math.abs(x).toFixed(places));
  return float(x < 0 || Object.is(x, -0) ? -rounded : rounded);
}

const FILTERS: Readonly<Record<string, Builtin<Value>>> = {
  safe: builtin("", (v: Value) => markup(text(v))),
  e: builtin("", (v: Value) => escaped(v)),
  escape: builtin("", (v: Value) => escaped(v)),
  forceescape: builtin("", (v: Value) => markup(escapeHtml(text(v)))),
  string: builtin("", (v: Value) => (v.type === "markup" ? v : str(text(v)))),
  trim: builtin("chars?", (v: Value, args) => {
    const chars = args.given(0) && args.text(0);
    const whole = plain(v);
    meter.text(whole.length * 2);
    return str(strip(whole, chars, true, true));
  }),
  upper: builtin("", (v: Value) => str(upperText(plain(v)))),
  lower: builtin("", (v: Value) => str(lowerText(plain(v)))),
  title: builtin("", (v: Value) => str(titleFilter(plain(v)))),
  capitalize: builtin("", (v: Value) => str(capitalizeText(plain(v)))),
  replace: builtin("old new count?", (v: Value, args) =>
    str(replaceText(plain(v), plain(args.get(0)!), plain(args.get(1)!), args.given(2) ? args.integer(2, -1) : -1)),
  ),
  indent: builtin("width? first? blank?", indentFilter),
  tojson: builtin("ensure_ascii? indent? separators? sort_keys?", jsonFilter),
  default: builtin("default_value? boolean?", (v: Value, args) =>
    isUndefined(v) || (args.flag(1) && !truthy(v)) ? (args.get(0) ?? str("")) : v,
  ),
  length: builtin("", (v: Value) => int(lengthOf(v))),
  first: builtin("", (v: Value) => firstOf(v) ?? undef),
  last: builtin("", (v: Value) => reversible(v).at(-1) ?? undef),
  list: builtin("", (v: Value) => {
    const items = iterate(v);
    meter.spend(items.length);
    return list([...items]);
  }),
  reverse: builtin("", (v: Value) => {
    const items = [...iterate(v)].reverse();
    meter.spend(items.length);
    if (isString(v)) return str(items.map((x) => x.value).join(""));
    return v.type === "iterator" ? list(items) : iterator(() => items);
  }),
  join: builtin("d? attribute?", (v: Value, args) => {
    const value = path(args.given(1));
    const parts = iterate(v).map((x) => plain(value(x)));
    return str(joined(parts, args.get(0) ? plain(args.get(0)!) : ""));
  }),
  sort: builtin("reverse? case_sensitive? attribute?", (v: Value, args) => {
    const fold = folding(args.flag(1));
    const attribute = args.given(2);
    const values =
      attribute && isString(attribute) ? (attribute.value as string).split(",").map((p) => path(str(p))) : [path(attribute)];
    const key = (x: Value) => list(values.map((value) => fold(value(x))));
    return list(sortedBy(iterate(v), key, args.flag(0)));
  }),
  unique: builtin("case_sensitive? attribute?", (v: Value, args) => {
    const fold = folding(args.flag(0));
    const value = path(args.given(1));
    return iterator(() => {
      const seen = new Set<string>();
      return iterate(v).filter((x) => {
        const key = hashKey(fold(value(x)));
        if (seen.has(key)) return false;
        meter.spend(2);
        seen.add(key);
        return true;
      });
    });
  }),
  min: extreme(-1),
  max: extreme(1),
  sum: builtin("attribute? start?", (v: Value, args) => {
    const value = path(args.given(0));
    let total = args.get(1) ?? int(0);
    for (const x of iterate(v)) {
      meter.spend(1);
      const item = value(x);
      if (!isNumber(total) || !isNumber(item)) throw new TemplateRuntimeError("sum needs numbers");
      total = binary("+", total, item);
    }
    return total;
  }),
  map: builtin("*", (v: Value, args) =>
    iterator(() => {
      if (!truthy(v)) return [];
      const { positional, keywords } = args;
      if (positional.length === 0 && keywords.has("attribute")) {
        if ([...keywords.keys()].some((k) => k !== "attribute" && k !== "default"))
          throw new TemplateRuntimeError("map got an unexpected keyword argument");
        const value = path(keywords.get("attribute"));
        const otherwise = keywords.get("default");
        return iterate(v).map((x) => {
          const item = value(x);
          return isUndefined(item) && otherwise && !isNone(otherwise) ? otherwise : item;
        });
      }
      const [name, ...rest] = positional;
      if (!name) throw new TemplateRuntimeError("map requires a filter argument");
      return iterate(v).map((x) => {
        meter.spend(1);
        return filter(nameOf(name), x, rest, keywords);
      });
    }),
  ),
  select: selecting(true, false),
  reject: selecting(false, false),
  selectattr: selecting(true, true),
  rejectattr: selecting(false, true),
  items: builtin("", (v: Value) =>
    iterator(() => {
      if (isUndefined(v)) return [];
      if (!isDict(v)) throw new TemplateRuntimeError("Can only get item pairs from a mapping.");
      return pairs(v.value);
    }),
  ),
  dictsort: builtin("case_sensitive? by? reverse?", (v: Value, args) => {
    if (!isDict(v)) throw new TemplateRuntimeError("dictsort needs a mapping");
    const by = args.get(1) ? args.text(1) : "key";
    if (by !== "key" && by !== "value") throw new TemplateRuntimeError('You can only sort by either "key" or "value"');
    const fold = folding(args.flag(0));
    return list(sortedBy(pairs(v.value), (pair) => fold(pair.value[by === "key" ? 0 : 1]), args.flag(2)));
  }),
  int: builtin("default? base?", intFilter),
  float: builtin("default?", floatFilter),
  abs: builtin("", (v: Value) => {
    if (!isNumber(v)) throw new TemplateRuntimeError(`bad operand type for abs(): '${typeName(v)}'`);
    const n = numberOf(v);
    return isFloat(v) ? float(Math.abs(v.value)) : int(n < 0 ? -n : n);
  }),
  round: builtin("precision? method?", roundFilter),
};

const ALIASES: Readonly<Record<string, string>> = { d: "default", count: "length" };

/** The text of a value, for filters that make text of anything; HTML-safe text would stay HTML-safe in Python. */
function plain(v: Value): string {
  if (v.type === "markup") throw new TemplateRuntimeError("this filter on HTML-safe text is not supported");
  return text(v);
}

function reversible(v: Value): Value[] {
  if (v.type === "iterator") throw new TemplateRuntimeError("'generator' object is not reversible");
  return iterate(v);
}

const TITLE_BREAK = new RegExp(`([-${SPACES}({\\[<]+)`, "u");
/** Jinja's title: words begin behind white space, a hyphen or an opening bracket, not behind an apostrophe. */
function titleFilter(s: string): string {
  meter.text(s.length * 12);
  return s
    .split(TITLE_BREAK)
    .map((word) => {
      const first = word === "" ? "" : String.fromCodePoint(word.codePointAt(0)!);
      return first.toUpperCase() + word.slice(first.length).toLowerCase();
    })
    .join("");
}

const escaped = (v: Value) => (v.type === "markup" ? v : markup(escapeHtml(text(v))));
function escapeHtml(s: string): string {
  meter.text(s.length * 10);
  return s
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll("'", "&#39;")
    .replaceAll('"', "&#34;");
}

/** Applies one of Jinja's filters by name; one that is not known is an error. */
export function filter(name: string, v: Value, positional: readonly Value[], keywords: ReadonlyMap<string, Value>): Value {
  const real = Object.hasOwn(ALIASES, name) ? ALIASES[name]! : name;
  const found = Object.hasOwn(FILTERS, real) ? FILTERS[real] : undefined;
  if (!found) throw new TemplateRuntimeError(`The filter '${name}' is not supported`);
  return found.call(v, new Args(name, found as Builtin<never>, positional, keywords));
}

/** `dict(...)` of Python. */
export function dictOf(positional: readonly Value[], keywords: ReadonlyMap<string, Value>): Value {
  if (positional.length > 1) throw new TemplateRuntimeError("dict expected at most 1 argument");
  const [from] = positional;
  const entries = new Map<string, Value>();
  const source: Value[] = from ? (isDict(from) ? pairs(from.value) : iterate(from)) : [];
  for (const pair of source) {
    const [key, value, ...rest] = iterate(pair);
    if (!key || !value || rest.length > 0)
      throw new TemplateRuntimeError("dictionary update sequence element must have two items");
    if (!isString(key)) throw new TemplateRuntimeError(`a key of a dict must be a text here, not ${typeName(key)}`);
    entries.set(key.value, value);
  }
  for (const [key, value] of keywords) entries.set(key, value);
  meter.spend(entries.size * 2);
  return dict(entries);
}
