import { type Args, capitalizeText, contains, DICT_METHODS, replaceText, strip } from "./methods.js";
import { json, text } from "./print.js";
import {
  compare,
  equal,
  float,
  int,
  isBoolean,
  isDict,
  isFloat,
  isInteger,
  isList,
  isNone,
  isNumber,
  isString,
  isUndefined,
  iterate,
  list,
  str,
  TemplateRuntimeError,
  truthy,
  tuple,
  typeName,
  undef,
  type Value,
} from "./values.js";

type Filter = (input: Value, args: Args) => Value;
type Test = (input: Value, args: Value[]) => boolean;

function wholeNumber(v: Value, name: string): number {
  if (!isInteger(v) && !isBoolean(v)) throw new TemplateRuntimeError(`${name} needs an integer, not ${typeName(v)}`);
  return Number(v.value);
}

/** Jinja's tests. */
const TESTS: Readonly<Record<string, Test>> = {
  defined: (v) => !isUndefined(v),
  undefined: (v) => isUndefined(v),
  none: (v) => isNone(v),
  boolean: (v) => isBoolean(v),
  true: (v) => isBoolean(v) && v.value,
  false: (v) => isBoolean(v) && !v.value,
  string: (v) => isString(v),
  number: (v) => isNumber(v),
  integer: (v) => isInteger(v),
  float: (v) => isFloat(v),
  mapping: (v) => isDict(v),
  sequence: (v) => isString(v) || isList(v) || isDict(v) || isUndefined(v),
  iterable: (v) => isString(v) || isList(v) || isDict(v) || isUndefined(v),
  callable: (v) => v.type === "FunctionValue",
  odd: (v) => wholeNumber(v, "odd") % 2 !== 0,
  even: (v) => wholeNumber(v, "even") % 2 === 0,
  lower: (v) => text(v) === text(v).toLowerCase() && text(v) !== text(v).toUpperCase(),
  upper: (v) => text(v) === text(v).toUpperCase() && text(v) !== text(v).toLowerCase(),
  in: (v, [x]) => contains(x ?? undef, v),
};

const COMPARISONS: [names: string[], test: Test][] = [
  [["eq", "equalto", "=="], (v, [x]) => equal(v, x ?? undef)],
  [["ne", "!="], (v, [x]) => !equal(v, x ?? undef)],
  [["lt", "lessthan", "<"], (v, [x]) => compare(v, x ?? undef) < 0],
  [["le", "<="], (v, [x]) => compare(v, x ?? undef) <= 0],
  [["gt", "greaterthan", ">"], (v, [x]) => compare(v, x ?? undef) > 0],
  [["ge", ">="], (v, [x]) => compare(v, x ?? undef) >= 0],
];

export function findTest(name: string): Test {
  const test = Object.hasOwn(TESTS, name) ? TESTS[name] : COMPARISONS.find(([names]) => names.includes(name))?.[1];
  if (!test) throw new TemplateRuntimeError(`No test named '${name}'.`);
  return test;
}

/** `a.b.0` of an item, as the `attribute` argument of filters means it. */
function attribute(item: Value, path: Value): Value {
  let value = item;
  for (const part of text(path).split(".")) {
    if (isUndefined(value)) throw new TemplateRuntimeError(`an item has no attribute on the way to '${text(path)}'`);
    if (isDict(value) || value.type === "NamespaceValue") value = value.value.get(part) ?? undef;
    else if (isList(value) && /^\d+$/.test(part)) value = value.value[Number(part)] ?? undef;
    else return undef;
  }
  return value;
}

/** Case does not count when texts are sorted or compared, unless asked for. */
const folded = (v: Value, caseSensitive: boolean) => (isString(v) && !caseSensitive ? str(v.value.toLowerCase()) : v);
const flag = (args: Args, index: number, name: string) => {
  const v = args.get(index, name);
  return v !== undefined && truthy(v);
};

function sorted(items: Value[], args: Args, names: [reverse: number, caseSensitive: number, attribute: number]): Value[] {
  const path = args.get(names[2], "attribute");
  const key = (v: Value) => folded(path && !isNone(path) ? attribute(v, path) : v, flag(args, names[1], "case_sensitive"));
  const sign = flag(args, names[0], "reverse") ? -1 : 1;
  return items
    .map((item) => ({ item, key: key(item) }))
    .sort((a, b) => sign * compare(a.key, b.key))
    .map((x) => x.item);
}

function selecting(keep: boolean, withAttribute: boolean): Filter {
  return (input, args) => {
    const rest = args.positional.slice(withAttribute ? 1 : 0);
    const path = args.positional[0];
    if (withAttribute && path === undefined) throw new TemplateRuntimeError("Missing parameter for attribute name");
    const test = rest[0] === undefined ? truthy : (v: Value) => findTest(text(rest[0]!))(v, rest.slice(1));
    return list(iterate(input).filter((item) => test(withAttribute ? attribute(item, path!) : item) === keep));
  };
}

function extreme(sign: number): Filter {
  return (input, args) => {
    const items = sorted(iterate(input), args, [-1, 0, 1]);
    return (sign < 0 ? items[0] : items.findLast((x) => compare(folded(x, false), folded(items.at(-1)!, false)) === 0)) ?? undef;
  };
}

function toNumber(input: Value, args: Args, parse: (v: string) => number, make: (v: number) => Value, otherwise: Value): Value {
  if (isNumber(input)) return make(Number(input.value));
  const n = isString(input) ? parse(strip(input.value, undefined, true, true)) : Number.NaN;
  return Number.isNaN(n) ? (args.get(0, "default") ?? otherwise) : make(n);
}

/** transformers' tojson(x, ensure_ascii, indent, separators, sort_keys). */
function jsonFilter(input: Value, args: Args): Value {
  const indent = args.get(1, "indent");
  const separators = args.get(2, "separators");
  return str(
    json(input, {
      ensureAscii: flag(args, 0, "ensure_ascii"),
      indent:
        indent && !isNone(indent)
          ? isString(indent)
            ? indent.value
            : " ".repeat(Math.min(wholeNumber(indent, "indent"), 1000))
          : undefined,
      separators: separators && isList(separators) ? [text(separators.value[0]), text(separators.value[1])] : undefined,
      sortKeys: flag(args, 3, "sort_keys"),
    }),
  );
}

function indentFilter(input: Value, args: Args): Value {
  const width = args.get(0, "width");
  const pad =
    width === undefined ? "    " : isString(width) ? width.value : " ".repeat(Math.min(wholeNumber(width, "indent"), 10_000));
  const lines = text(input).split("\n");
  const blank = flag(args, 2, "blank");
  return str(lines.map((line, i) => ((i === 0 ? flag(args, 1, "first") : blank || line !== "") ? pad + line : line)).join("\n"));
}

function roundFilter(input: Value, args: Args): Value {
  if (!isNumber(input)) throw new TemplateRuntimeError(`round needs a number, not ${typeName(input)}`);
  const scale = 10 ** args.integer(0, "precision", 0);
  const method = args.get(1, "method") ? args.text(1, "method") : "common";
  const scaled = Number(input.value) * scale;
  if (method !== "common") return float((method === "ceil" ? Math.ceil(scaled) : Math.floor(scaled)) / scale);
  // Python rounds halves to even.
  const down = Math.floor(scaled);
  const rounded = scaled - down === 0.5 ? down + (down % 2 === 0 ? 0 : 1) : Math.round(scaled);
  return float(rounded / scale);
}

const FILTERS: Readonly<Record<string, Filter>> = {
  safe: (v) => v,
  string: (v) => str(text(v)),
  trim: (v, args) =>
    str(strip(text(v), args.get(0, "chars") && !isNone(args.get(0, "chars")) ? args.text(0, "chars") : undefined, true, true)),
  upper: (v) => str(text(v).toUpperCase()),
  lower: (v) => str(text(v).toLowerCase()),
  title: (v) => str(titleFilter(text(v))),
  capitalize: (v) => str(capitalizeText(text(v))),
  replace: (v, args) =>
    str(replaceText(text(v), text(args.get(0) ?? undef), text(args.get(1) ?? undef), args.integer(2, "count", -1))),
  indent: indentFilter,
  tojson: jsonFilter,
  e: (v) => str(escapeHtml(text(v))),
  escape: (v) => str(escapeHtml(text(v))),
  default: (v, args) =>
    isUndefined(v) || (flag(args, 1, "boolean") && !truthy(v)) ? (args.get(0, "default_value") ?? str("")) : v,
  d: (v, args) => FILTERS.default!(v, args),
  length: (v) => {
    if (isDict(v)) return int(v.value.size);
    if (!isString(v) && !isList(v) && !isUndefined(v))
      throw new TemplateRuntimeError(`object of type '${typeName(v)}' has no len()`);
    return int(iterate(v).length);
  },
  count: (v, args) => FILTERS.length!(v, args),
  first: (v) => iterate(v)[0] ?? undef,
  last: (v) => iterate(v).at(-1) ?? undef,
  list: (v) => list([...iterate(v)]),
  reverse: (v) =>
    isString(v)
      ? str(
          Array.from(v.value as string)
            .reverse()
            .join(""),
        )
      : list([...iterate(v)].reverse()),
  join: (v, args) => {
    const path = args.get(1, "attribute");
    const items = iterate(v).map((x) => text(path && !isNone(path) ? attribute(x, path) : x));
    return str(items.join(text(args.get(0, "d") ?? undef)));
  },
  sort: (v, args) => list(sorted(iterate(v), args, [0, 1, 2])),
  unique: (v, args) => {
    const keep: Value[] = [];
    const key = (x: Value) =>
      folded(args.get(1, "attribute") ? attribute(x, args.get(1, "attribute")!) : x, flag(args, 0, "case_sensitive"));
    for (const x of iterate(v)) if (!keep.some((y) => equal(key(x), key(y)))) keep.push(x);
    return list(keep);
  },
  min: extreme(-1),
  max: extreme(1),
  sum: (v, args) => {
    const path = args.get(0, "attribute");
    const items = iterate(v).map((x) => (path && !isNone(path) ? attribute(x, path) : x));
    if (!items.every(isNumber)) throw new TemplateRuntimeError("sum needs numbers");
    const total = items.reduce((n, x) => n + Number(x.value), Number(args.get(1, "start")?.value ?? 0));
    return items.some(isFloat) ? float(total) : int(total);
  },
  map: (v, args) => {
    const path = args.keywords.get("attribute");
    const otherwise = args.keywords.get("default");
    if (path) return list(iterate(v).map((x) => (isUndefined(attribute(x, path)) ? (otherwise ?? undef) : attribute(x, path))));
    const filter = findFilter(args.text(0));
    const rest = new (args.constructor as typeof Args)(args.text(0), args.positional.slice(1));
    return list(iterate(v).map((x) => filter(x, rest)));
  },
  select: selecting(true, false),
  reject: selecting(false, false),
  selectattr: selecting(true, true),
  rejectattr: selecting(false, true),
  items: (v, args) => {
    if (isUndefined(v)) return list([]);
    if (!isDict(v)) throw new TemplateRuntimeError("Can only get item pairs from a mapping.");
    return DICT_METHODS.items!(v.value, args);
  },
  dictsort: (v, args) => {
    if (!isDict(v)) throw new TemplateRuntimeError("dictsort needs a mapping");
    const byValue = args.get(1, "by") !== undefined && args.text(1, "by") === "value";
    const pairs = [...(v.value as Map<string, Value>)].map(([k, x]) => ({
      pair: tuple([str(k), x]),
      key: folded(byValue ? x : str(k), flag(args, 0, "case_sensitive")),
    }));
    const sign = flag(args, 2, "reverse") ? -1 : 1;
    return list(pairs.sort((a, b) => sign * compare(a.key, b.key)).map((x) => x.pair));
  },
  int: (v, args) =>
    toNumber(
      v,
      args,
      (s) => (/^[+-]?\d[\d_]*(\.\d*)?$/.test(s) ? Math.trunc(Number(s.replaceAll("_", ""))) : Number.NaN),
      (n) => int(Math.trunc(n)),
      int(0),
    ),
  float: (v, args) => toNumber(v, args, (s) => (s === "" ? Number.NaN : Number(s)), float, float(0)),
  abs: (v) => {
    if (!isNumber(v)) throw new TemplateRuntimeError(`bad operand type for abs(): '${typeName(v)}'`);
    return isFloat(v) ? float(Math.abs(v.value)) : int(Math.abs(Number(v.value)));
  },
  round: roundFilter,
};

/** Jinja's title: words begin behind white space, a hyphen or an opening bracket, not behind an apostrophe. */
const titleFilter = (s: string) =>
  s
    .split(/([-\s({[<]+)/)
    .map((word) => word.slice(0, 1).toUpperCase() + word.slice(1).toLowerCase())
    .join("");

const escapeHtml = (s: string) =>
  s.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("'", "&#39;").replaceAll('"', "&#34;");

/** Finds a filter of Jinja by name; an unknown one is an error, as when Python compiles the template. */
export function findFilter(name: string): Filter {
  const filter = Object.hasOwn(FILTERS, name) ? FILTERS[name] : undefined;
  if (!filter) throw new TemplateRuntimeError(`No filter named '${name}'.`);
  return filter;
}
