import { Environment, Interpreter, parse, tokenize } from "@huggingface/jinja";

/** A value while a template runs: the library's classes, which it does not export, told apart by `type`. */
export interface Value {
  readonly type: string;
  // biome-ignore lint/suspicious/noExplicitAny: what it holds depends on `type`
  readonly value: any;
}
/** Arguments as a function gets them; keyword arguments, if any, come last in one value. */
export type Call = (args: Value[], scope: Environment) => Value;
type Maker<T> = new (value: T) => Value;

const env = new Environment();
const maker = <T>(sample: unknown) => env.set(`v${env.variables.size}`, sample).constructor as unknown as Maker<T>;
const run = (source: string) => new Interpreter(env).run(parse(tokenize(source)));

const StringValue = maker<string>("");
const IntegerValue = maker<number | bigint>(1);
const FloatValue = maker<number>(0.5);
const BooleanValue = maker<boolean>(true);
const NullValue = maker<null>(null);
const UndefinedValue = maker<undefined>(undefined);
const ArrayValue = maker<Value[]>([]);
const ObjectValue = maker<Map<string, Value>>({});
const FunctionValue = maker<Call>(() => null);
run("{% set sample_tuple = (1, 2) %}");
const TupleValue = env.lookupVariable("sample_tuple").constructor as unknown as Maker<Value[]>;

let KeywordArgumentsValue = ObjectValue;
const capture = (args: Value[]) => {
  KeywordArgumentsValue = args[0]?.constructor as typeof ObjectValue;
  return new NullValue(null);
};
env.setVariable("capture", new FunctionValue(capture) as never);
run("{{ capture(keyword=1) }}");

export const str = (value: string): Value => new StringValue(value);
export const int = (value: number | bigint): Value => new IntegerValue(value);
export const float = (value: number): Value => new FloatValue(value);
export const bool = (value: boolean): Value => new BooleanValue(value);
export const list = (value: Value[]): Value => new ArrayValue(value);
export const tuple = (value: Value[]): Value => new TupleValue(value);
export const dict = (value: Map<string, Value>): Value => new ObjectValue(value);
export const fn = (value: Call): Value => new FunctionValue(value);
/** Keyword arguments of a call, as the library hands them to functions and macros. */
export const keywordArguments = (value: Map<string, Value>): Value => new KeywordArgumentsValue(value);
export const none: Value = new NullValue(null);
export const undef: Value = new UndefinedValue(undefined);

export const isString = (v: Value | undefined) => v?.type === "StringValue";
export const isUndefined = (v: Value | undefined) => v === undefined || v.type === "UndefinedValue";
export const isNone = (v: Value | undefined) => v?.type === "NullValue";
export const isList = (v: Value | undefined) => v?.type === "ArrayValue" || v?.type === "TupleValue";
export const isDict = (v: Value | undefined) => v?.type === "ObjectValue";
export const isInteger = (v: Value | undefined) => v?.type === "IntegerValue";
export const isFloat = (v: Value | undefined) => v?.type === "FloatValue";
export const isBoolean = (v: Value | undefined) => v?.type === "BooleanValue";
/** Python counts booleans as numbers. */
export const isNumber = (v: Value | undefined) => isInteger(v) || isFloat(v) || isBoolean(v);

/** Pays for work on nested values, which may share parts and so be far larger than their memory. Set while a template runs. */
export const meter = { spend: (_steps: number): void => {} };

/** Something a template does that Python's Jinja refuses too. */
export class TemplateRuntimeError extends Error {}
/** The template itself called raise_exception. */
export class TemplateRaised extends Error {}
/** The template used more than it is given. */
export class TemplateLimitError extends Error {}

const TYPE_NAMES: Record<string, string> = {
  StringValue: "str",
  IntegerValue: "int",
  FloatValue: "float",
  BooleanValue: "bool",
  NullValue: "None",
  UndefinedValue: "undefined",
  ArrayValue: "list",
  TupleValue: "tuple",
  ObjectValue: "dict",
  NamespaceValue: "namespace",
  FunctionValue: "function",
};
/** Python's name of a value's type, for messages. */
export const typeName = (v: Value) => TYPE_NAMES[v.type] ?? v.type;

export function truthy(v: Value): boolean {
  if (isList(v)) return v.value.length > 0;
  if (isDict(v)) return v.value.size > 0;
  return v.type === "NamespaceValue" || v.type === "FunctionValue" || Boolean(v.value);
}

/** A JavaScript value as a template sees it. A `Number` object is a float even when it is whole: JSON's 1.0. */
export function fromJs(input: unknown): Value {
  if (input === null) return none;
  if (input === undefined) return undef;
  if (typeof input === "string") return str(input);
  if (typeof input === "boolean") return bool(input);
  if (typeof input === "bigint") return int(input);
  if (typeof input === "number") return Number.isSafeInteger(input) ? int(input) : float(input);
  if (input instanceof Number) return float(input.valueOf());
  if (Array.isArray(input)) return list(input.map(fromJs));
  if (typeof input === "object") return dict(new Map(Object.entries(input).map(([k, v]) => [k, fromJs(v)])));
  throw new TemplateRuntimeError(`a ${typeof input} cannot be given to a template`);
}

/** Elements of what `for`, `in` and list filters accept. */
export function iterate(v: Value): Value[] {
  if (isList(v)) return v.value;
  if (isDict(v)) return [...v.value.keys()].map(str);
  if (isString(v)) return Array.from(v.value as string, str);
  if (isUndefined(v)) return [];
  throw new TemplateRuntimeError(`'${typeName(v)}' object is not iterable`);
}

/** Python's ==. */
export function equal(a: Value, b: Value): boolean {
  meter.spend(1);
  if (isNumber(a) && isNumber(b)) return Number(a.value) === Number(b.value);
  if (isList(a) && a.type === b.type) {
    return a.value.length === b.value.length && a.value.every((x: Value, i: number) => equal(x, b.value[i]));
  }
  if (isDict(a) && isDict(b)) {
    if (a.value.size !== b.value.size) return false;
    for (const [key, value] of a.value) if (!b.value.has(key) || !equal(value, b.value.get(key))) return false;
    return true;
  }
  return a.type === b.type && a.value === b.value;
}

/** Order of two numbers, two texts or two lists; anything else cannot be ordered. */
export function compare(a: Value, b: Value): number {
  meter.spend(1);
  if (isNumber(a) && isNumber(b)) return Number(a.value) - Number(b.value);
  if (isString(a) && isString(b)) return a.value < b.value ? -1 : a.value > b.value ? 1 : 0;
  if (isList(a) && a.type === b.type) {
    for (let i = 0; i < Math.min(a.value.length, b.value.length); i++) {
      if (!equal(a.value[i], b.value[i])) return compare(a.value[i], b.value[i]);
    }
    return a.value.length - b.value.length;
  }
  throw new TemplateRuntimeError(`'<' not supported between instances of '${typeName(a)}' and '${typeName(b)}'`);
}
