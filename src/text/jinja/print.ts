import { MAX_DEPTH, meter, TemplateLimitError, TemplateRuntimeError } from "./limits.js";
import { compareText, typeName, type Value } from "./values.js";

/** Python's repr of a float: shortest digits, exponent from 1e16 and below 1e-4. */
export function floatText(x: number): string {
  if (Number.isNaN(x)) return "nan";
  if (!Number.isFinite(x)) return x > 0 ? "inf" : "-inf";
  if (x === 0) return Object.is(x, -0) ? "-0.0" : "0.0";
  const [mantissa, exponentText] = x.toExponential().split("e") as [string, string];
  const exponent = Number(exponentText);
  if (exponent >= 16 || exponent < -4) {
    return `${mantissa}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const digits = mantissa.replace(/[-.]/g, "");
  const sign = x < 0 ? "-" : "";
  if (exponent < 0) return `${sign}0.${"0".repeat(-exponent - 1)}${digits}`;
  const whole = digits.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  return `${sign}${whole}.${digits.slice(exponent + 1) || "0"}`;
}

const PLAIN = /^[ !#-&(-[\]-~]*$/;

/** Python's repr of a text. */
function textRepr(text: string): string {
  meter.text(text.length * 4);
  if (PLAIN.test(text)) return `'${text}'`;
  meter.spend(text.length);
  const quote = text.includes("'") && !text.includes('"') ? '"' : "'";
  let out = quote;
  for (const char of text) {
    const code = char.codePointAt(0)!;
    if (char === quote || char === "\\") out += `\\${char}`;
    else if (char === "\n") out += "\\n";
    else if (char === "\r") out += "\\r";
    else if (char === "\t") out += "\\t";
    else if (char === " " || !/[\p{C}\p{Z}]/u.test(char)) out += char;
    else if (code < 0x100) out += `\\x${code.toString(16).padStart(2, "0")}`;
    else if (code < 0x10000) out += `\\u${code.toString(16).padStart(4, "0")}`;
    else out += `\\U${code.toString(16).padStart(8, "0")}`;
  }
  return out + quote;
}

function deeper(depth: number): number {
  if (depth > MAX_DEPTH) throw new TemplateLimitError("depth", `it prints a value nested more than ${MAX_DEPTH} deep`);
  return depth + 1;
}

/** Python's repr. */
function repr(v: Value, depth: number): string {
  meter.spend(1);
  const inner = deeper(depth);
  switch (v.type) {
    case "str":
      return textRepr(v.value);
    case "markup":
      return `Markup(${textRepr(v.value)})`;
    case "dict":
      return `{${[...v.value].map(([k, x]: [string, Value]) => `${textRepr(k)}: ${repr(x, inner)}`).join(", ")}}`;
    case "list":
      return `[${v.value.map((x: Value) => repr(x, inner)).join(", ")}]`;
    case "tuple": {
      const items = v.value.map((x: Value) => repr(x, inner)).join(", ");
      return v.value.length === 1 ? `(${items},)` : `(${items})`;
    }
    case "view":
      return `${v.value.name}([${v.value.items.map((x: Value) => repr(x, inner)).join(", ")}])`;
    case "undefined":
      return "Undefined";
    default:
      return text(v, depth);
  }
}

/** Python's str: what `{{ value }}` prints. */
export function text(v: Value, depth = 0): string {
  switch (v.type) {
    case "str":
    case "markup":
      return v.value;
    case "int":
      if (typeof v.value === "bigint") meter.spend(32);
      return String(v.value);
    case "float":
      return floatText(v.value);
    case "bool":
      return v.value ? "True" : "False";
    case "none":
      return "None";
    case "undefined":
      return "";
    case "range": {
      const { start, stop, step } = v.value;
      return step === 1 ? `range(${start}, ${stop})` : `range(${start}, ${stop}, ${step})`;
    }
    case "list":
    case "tuple":
    case "dict":
    case "view":
      return repr(v, depth);
    default:
      throw new TemplateRuntimeError(`a ${typeName(v)} cannot be printed`);
  }
}

export interface JsonOptions {
  ensureAscii: boolean;
  /** What stands in front of one level; undefined prints on one line. */
  indent: string | undefined;
  separators: [item: string, key: string] | undefined;
  sortKeys: boolean;
}

// biome-ignore lint/suspicious/noControlCharactersInRegex: JSON escapes control characters
const TO_ESCAPE = /["\\\u0000-\u001f]/;

function jsonText(value: string, ensureAscii: boolean): string {
  meter.spend(1 + value.length / 8);
  // JSON.stringify escapes lone surrogates, which Python does only when ASCII is asked for: neither occurs in UTF-8 text.
  const plain = TO_ESCAPE.test(value) || ensureAscii ? JSON.stringify(value) : `"${value}"`;
  return ensureAscii ? plain.replace(/[\u007f-\uffff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`) : plain;
}

/** Python's json.dumps. */
export function json(v: Value, options: JsonOptions, depth = 0): string {
  meter.spend(1);
  const { indent, ensureAscii } = options;
  const [itemSeparator, keySeparator] = options.separators ?? [indent === undefined ? ", " : ",", ": "];
  const inner = deeper(depth);
  const wrap = (open: string, items: string[], close: string) => {
    if (items.length === 0) return open + close;
    const pad = indent === undefined ? 0 : indent.length * inner;
    meter.text(items.length * (itemSeparator.length + pad));
    if (indent === undefined) return open + items.join(itemSeparator) + close;
    const line = `\n${indent.repeat(inner)}`;
    return `${open}${line}${items.join(itemSeparator + line)}\n${indent.repeat(depth)}${close}`;
  };
  switch (v.type) {
    case "str":
    case "markup":
      return jsonText(v.value, ensureAscii);
    case "none":
      return "null";
    case "bool":
      return v.value ? "true" : "false";
    case "int":
      return String(v.value);
    case "float":
      if (Number.isFinite(v.value)) return floatText(v.value);
      return Number.isNaN(v.value) ? "NaN" : v.value > 0 ? "Infinity" : "-Infinity";
    case "list":
    case "tuple":
      return wrap(
        "[",
        v.value.map((x: Value) => json(x, options, inner)),
        "]",
      );
    case "dict": {
      const entries = [...(v.value as Map<string, Value>)];
      if (options.sortKeys) entries.sort(([a], [b]) => compareText(a, b));
      const items = entries.map(([key, x]) => jsonText(key, ensureAscii) + keySeparator + json(x, options, inner));
      return wrap("{", items, "}");
    }
    default:
      throw new TemplateRuntimeError(`Object of type ${typeName(v)} is not JSON serializable`);
  }
}
