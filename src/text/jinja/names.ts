import { TemplateRuntimeError } from "./limits.js";
import { type Expr, insideOf, partsOf, type Stmt } from "./syntax.js";

const words = (text: string): ReadonlySet<string> => new Set(text.split(" "));

/** Filters and tests of Jinja 3.1; those that are not done here are refused when a template gets to them. */
const FILTERS = words(
  "abs attr batch capitalize center count d default dictsort e escape filesizeformat first float forceescape format groupby indent int items join last length list lower map max min pprint random reject rejectattr replace reverse round safe select selectattr slice sort string striptags sum title tojson trim truncate unique upper urlencode urlize wordcount wordwrap xmlattr",
);
const TESTS = words(
  "!= < <= == > >= boolean callable defined divisibleby eq equalto escaped even false filter float ge greaterthan gt in integer iterable le lessthan lower lt mapping ne none number odd sameas sequence string test true undefined upper",
);

/** Attributes that Python's values have and this renderer has not: to take them for undefined would render something else. */
const PYTHON_ATTRIBUTES: Readonly<Record<string, ReadonlySet<string>>> = {
  str: words(
    "capitalize casefold center count encode endswith expandtabs find format format_map index isalnum isalpha isascii isdecimal isdigit isidentifier islower isnumeric isprintable isspace istitle isupper join ljust lower lstrip maketrans partition removeprefix removesuffix replace rfind rindex rjust rpartition rsplit rstrip split splitlines startswith strip swapcase title translate upper zfill",
  ),
  int: words("as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag numerator real to_bytes"),
  float: words("as_integer_ratio conjugate fromhex hex imag is_integer real"),
  list: words("copy count index"),
  tuple: words("count index"),
  dict: words("copy fromkeys get items keys values"),
  range: words("count index start step stop"),
  view: words("isdisjoint mapping"),
  loop: words("changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"),
  function: words("name arguments catch_kwargs catch_varargs caller explicit_caller fromkeys"),
  iterator: words("close send throw gi_code gi_frame gi_running gi_suspended gi_yieldfrom"),
};

/** True for an attribute that Python has for values of this type. */
export const pythonHas = (type: string, name: string): boolean =>
  type === "markup" ? true : (PYTHON_ATTRIBUTES[type === "bool" ? "int" : type]?.has(name) ?? false);

/**
 * Refuses filters and tests that Jinja does not know either, as it does when it compiles a template: everywhere but inside
 * the branches of a condition, where it looks only when it gets there.
 */
export function checkNames(body: readonly Stmt[]): void {
  for (const statement of body) checkStatement(statement, false);
}

function checkStatement(s: Stmt, lenient: boolean): void {
  const { here, within, bodies } = insideOf(s);
  for (const e of here) checkExpr(e, lenient || s.type === "if");
  for (const e of within) checkExpr(e, false);
  for (const body of bodies) for (const x of body) checkStatement(x, s.type === "if");
}

function checkExpr(e: Expr, lenient: boolean): void {
  const soft = lenient || e.type === "condition";
  if (!soft && e.type === "filter" && !FILTERS.has(e.name)) throw new TemplateRuntimeError(`No filter named '${e.name}'.`);
  if (!soft && e.type === "test" && !TESTS.has(e.name)) throw new TemplateRuntimeError(`No test named '${e.name}'.`);
  for (const part of partsOf(e)) if (part) checkExpr(part, soft);
}
