import { text } from "./print.js";
import {
  bool,
  compare,
  equal,
  float,
  int,
  isFloat,
  isInteger,
  isList,
  isNumber,
  isString,
  list,
  str,
  TemplateLimitError,
  TemplateRuntimeError,
  tuple,
  typeName,
  type Value,
} from "./values.js";

function arithmetic(operator: string, a: number, b: number): number {
  switch (operator) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "**":
      return a ** b;
    default:
      if (b === 0) throw new TemplateRuntimeError("division by zero");
      if (operator === "/") return a / b;
      // Python's % takes the sign of the divisor.
      return operator === "//" ? Math.floor(a / b) : a - Math.floor(a / b) * b;
  }
}

function repeated(sequence: Value, times: number, limit: number): Value {
  const n = Math.max(0, times);
  if (sequence.value.length * n > limit) throw new TemplateLimitError(`it made a text or list of more than ${limit} elements`);
  if (isString(sequence)) return str(sequence.value.repeat(n));
  const items = Array.from({ length: n }, () => sequence.value as Value[]).flat();
  return sequence.type === "TupleValue" ? tuple(items) : list(items);
}

/** Python's operators but the short-circuiting ones; `limit` bounds what repetition makes. */
export function binary(operator: string, left: Value, right: Value, limit: number): Value {
  switch (operator) {
    case "==":
      return bool(equal(left, right));
    case "!=":
      return bool(!equal(left, right));
    case "<":
      return bool(compare(left, right) < 0);
    case "<=":
      return bool(compare(left, right) <= 0);
    case ">":
      return bool(compare(left, right) > 0);
    case ">=":
      return bool(compare(left, right) >= 0);
    case "~":
      return str(text(left) + text(right));
  }
  if (isNumber(left) && isNumber(right)) {
    const result = arithmetic(operator, Number(left.value), Number(right.value));
    const whole = !isFloat(left) && !isFloat(right) && operator !== "/" && !(operator === "**" && Number(right.value) < 0);
    if (!whole) return float(result);
    if (!Number.isSafeInteger(result)) throw new TemplateLimitError("it computed an integer beyond 53 bits");
    return int(result);
  }
  if (operator === "+" && isString(left) && isString(right)) return str(left.value + right.value);
  if (operator === "+" && isList(left) && left.type === right.type) {
    const items = [...left.value, ...right.value];
    return left.type === "TupleValue" ? tuple(items) : list(items);
  }
  if (operator === "*" && isInteger(right) && (isString(left) || isList(left))) return repeated(left, Number(right.value), limit);
  if (operator === "*" && isInteger(left) && (isString(right) || isList(right)))
    return repeated(right, Number(left.value), limit);
  throw new TemplateRuntimeError(`unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`);
}
