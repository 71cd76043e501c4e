import { meter, TemplateLimitError, TemplateRuntimeError } from "./limits.js";
import { contains } from "./methods.js";
import {
  compare,
  equal,
  float,
  int,
  isBoolean,
  isFloat,
  isInteger,
  isNumber,
  isString,
  list,
  numberOf,
  small,
  str,
  tuple,
  typeName,
  type Value,
} from "./values.js";

/** Python's comparisons, `in` and `not in` among them. */
export function compares(operator: string, left: Value, right: Value): boolean {
  switch (operator) {
    case "==":
      return equal(left, right);
    case "!=":
      return !equal(left, right);
    case "<":
      return compare(left, right) < 0;
    case "<=":
      return compare(left, right) <= 0;
    case ">":
      return compare(left, right) > 0;
    case ">=":
      return compare(left, right) >= 0;
    case "in":
      return contains(right, left);
    default:
      return !contains(right, left);
  }
}

/** Python's arithmetic; on texts and lists `+` joins and `*` repeats. */
export function binary(operator: string, left: Value, right: Value): Value {
  if (isNumber(left) && isNumber(right)) return arithmetic(operator, left, right);
  if (operator === "+") {
    if (isString(left) && isString(right)) {
      meter.text(left.value.length + right.value.length);
      return str(left.value + right.value);
    }
    if ((left.type === "list" || left.type === "tuple") && left.type === right.type) {
      meter.spend(left.value.length + right.value.length);
      return (left.type === "list" ? list : tuple)(left.value.concat(right.value));
    }
  }
  if (operator === "*" && (isInteger(right) || isBoolean(right)) && repeats(left)) return repeated(left, right);
  if (operator === "*" && (isInteger(left) || isBoolean(left)) && repeats(right)) return repeated(right, left);
  throw new TemplateRuntimeError(`unsupported operand type(s) for ${operator}: '${typeName(left)}' and '${typeName(right)}'`);
}

const repeats = (v: Value) => isString(v) || v.type === "list" || v.type === "tuple";

function repeated(sequence: Value, by: Value): Value {
  const times = Math.max(0, Number(numberOf(by)));
  const size = sequence.value.length;
  if (size === 0 || times === 0) return isString(sequence) ? str("") : (sequence.type === "list" ? list : tuple)([]);
  if (isString(sequence)) {
    meter.text(size * times);
    return str(sequence.value.repeat(times));
  }
  meter.spend(size * times);
  const items = Array.from({ length: size * times }, (_, i) => sequence.value[i % size]);
  return (sequence.type === "list" ? list : tuple)(items);
}

function arithmetic(operator: string, left: Value, right: Value): Value {
  const [a, b] = [numberOf(left), numberOf(right)];
  if (isFloat(left) || isFloat(right)) return float(floats(operator, exactFloat(a), exactFloat(b)));
  if (operator === "/") {
    if (b === 0) throw new TemplateRuntimeError("division by zero");
    return float(exactFloat(a) / exactFloat(b));
  }
  if (operator === "**") return power(BigInt(a), BigInt(b));
  return int(small(integers(operator, a, b)));
}

/** A whole number as a float, where a float holds it. */
function exactFloat(n: number | bigint): number {
  const x = Number(n);
  if (typeof n === "bigint" && BigInt(x) !== n)
    throw new TemplateLimitError("number", "it computes with an integer beyond 53 bits and a float");
  return x;
}

/** Integers are as long as they need to be in Python; here up to this many bits. */
const MAX_BITS = 4096;

function integers(operator: string, x: number | bigint, y: number | bigint): bigint {
  if (typeof x === "bigint" || typeof y === "bigint") meter.spend(16);
  const [a, b] = [BigInt(x), BigInt(y)];
  if (operator === "+") return bounded(a + b);
  if (operator === "-") return bounded(a - b);
  if (operator === "*") return bounded(a * b);
  if (b === 0n) throw new TemplateRuntimeError("integer division or modulo by zero");
  // Python rounds the quotient down, and the remainder takes the sign of the divisor.
  const rest = a % b;
  const adjust = rest !== 0n && rest < 0n !== b < 0n;
  if (operator === "%") return adjust ? rest + b : rest;
  return a / b - (adjust ? 1n : 0n);
}

function bounded(n: bigint): bigint {
  if (n >> BigInt(MAX_BITS) > 0n || -n >> BigInt(MAX_BITS) > 0n)
    throw new TemplateLimitError("number", `it computes an integer of more than ${MAX_BITS} bits`);
  return n;
}

/** @param base not negative: the interpreter refuses powers of negative numbers */
function power(base: bigint, exponent: bigint): Value {
  if (exponent >= 0n) {
    if (base <= 1n) return int(exponent === 0n ? 1 : Number(base));
    if (BigInt(base.toString(2).length) * exponent > BigInt(MAX_BITS))
      throw new TemplateLimitError("number", `it computes an integer of more than ${MAX_BITS} bits`);
    return int(small(base ** exponent));
  }
  if (base === 0n) throw new TemplateRuntimeError("0.0 cannot be raised to a negative power");
  const below = power(base, -exponent).value;
  // One rounding only, as pow() has it, where the power itself is exact.
  if (typeof below === "bigint") throw new TemplateLimitError("number", "it computes with an integer beyond 53 bits and a float");
  return float(1 / below);
}

function floats(operator: string, a: number, b: number): number {
  switch (operator) {
    case "+":
      return a + b;
    case "-":
      return a - b;
    case "*":
      return a * b;
    case "**":
      throw new TemplateRuntimeError("powers of floats are not supported");
  }
  if (b === 0) throw new TemplateRuntimeError("float division by zero");
  if (operator === "/") return a / b;
  // CPython's float_divmod.
  let mod = a % b;
  let quotient = (a - mod) / b;
  if (mod !== 0) {
    if (b < 0 !== mod < 0) {
      mod += b;
      quotient -= 1;
    }
  } else mod = b < 0 ? -0 : 0;
  if (operator === "%") return mod;
  if (quotient === 0) return a / b < 0 || Object.is(a / b, -0) ? -0 : 0;
  const floor = Math.floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}
