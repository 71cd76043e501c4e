import { Args, type Builtin, builtin } from "./args.js";
import { TemplateRuntimeError } from "./limits.js";
import { contains, isLower, isUpper } from "./methods.js";
import { binary, compares } from "./operators.js";
import { text } from "./print.js";
import {
  bool,
  equal,
  int,
  isBoolean,
  isDict,
  isFloat,
  isInteger,
  isNone,
  isNumber,
  isSequence,
  isString,
  isUndefined,
  itemsOf,
  typeName,
  type Value,
} from "./values.js";

const is = (holds: (v: Value) => boolean) => builtin("", (v: Value) => bool(holds(v)));
const compared = (operator: string) => builtin("other /", (v: Value, args) => bool(compares(operator, v, args.get(0)!)));
const modulo = (v: Value, by: number, rest: number) => equal(binary("%", v, int(by)), int(rest));
const walkable = (v: Value) => v.type === "iterator" || v.type === "loop" || isString(v) || itemsOf(v) !== undefined;

/** Jinja's tests. */
const TESTS: Readonly<Record<string, Builtin<Value>>> = {
  defined: is((v) => !isUndefined(v)),
  undefined: is(isUndefined),
  none: is(isNone),
  boolean: is(isBoolean),
  true: is((v) => isBoolean(v) && v.value),
  false: is((v) => isBoolean(v) && !v.value),
  string: is((v) => isString(v) || v.type === "markup"),
  escaped: is((v) => v.type === "markup"),
  number: is(isNumber),
  integer: is(isInteger),
  float: is(isFloat),
  mapping: is(isDict),
  sequence: is((v) => isString(v) || v.type === "markup" || isSequence(v) || isDict(v) || isUndefined(v)),
  iterable: is((v) => walkable(v) || v.type === "markup"),
  callable: is((v) => v.type === "function" || isUndefined(v)),
  odd: is((v) => modulo(v, 2, 1)),
  even: is((v) => modulo(v, 2, 0)),
  divisibleby: builtin("num", (v: Value, args) => bool(equal(binary("%", v, args.get(0)!), int(0)))),
  lower: is((v) => isLower(text(v))),
  upper: is((v) => isUpper(text(v))),
  in: builtin("seq", (v: Value, args) => bool(contains(args.get(0)!, v))),
  sameas: builtin("other", (v: Value, args) => {
    const other = args.get(0)!;
    // Other values may or may not be one object in Python.
    if (![v, other].some((x) => isNone(x) || isBoolean(x))) throw new TemplateRuntimeError("'sameas' is not supported here");
    return bool(v.type === other.type && v.value === other.value);
  }),
  ...Object.fromEntries(
    (
      [
        [["eq", "equalto", "=="], "=="],
        [["ne", "!="], "!="],
        [["lt", "lessthan", "<"], "<"],
        [["le", "<="], "<="],
        [["gt", "greaterthan", ">"], ">"],
        [["ge", ">="], ">="],
      ] as const
    ).flatMap(([names, operator]) => names.map((name) => [name, compared(operator)])),
  ),
};

/** Applies one of Jinja's tests by name; one that is not known is an error. */
export function test(name: string, v: Value, positional: readonly Value[], keywords: ReadonlyMap<string, Value>): boolean {
  const found = Object.hasOwn(TESTS, name) ? TESTS[name] : undefined;
  if (!found) throw new TemplateRuntimeError(`The test '${name}' is not supported`);
  if (v.type === "markup" && !["defined", "undefined", "none", "string", "escaped", "boolean", "mapping"].includes(name))
    throw new TemplateRuntimeError(`'${name}' of ${typeName(v)} text is not supported`);
  return found.call(v, new Args(name, found as Builtin<never>, positional, keywords)).value;
}
