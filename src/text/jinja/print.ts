import { isDict, isList, meter, TemplateRuntimeError, type Value } from "./values.js";

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

/** Python's repr of a text. */
function textRepr(text: string): string {
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

/** Python's repr. */
export function repr(v: Value): string {
  meter.spend(1);
  if (v.type === "StringValue") return textRepr(v.value);
  if (isDict(v)) return `{${[...v.value].map(([k, x]: [string, Value]) => `${textRepr(k)}: ${repr(x)}`).join(", ")}}`;
  if (isList(v)) {
    const items = v.value.map(repr).join(", ");
    if (v.type === "ArrayValue") return `[${items}]`;
    return v.value.length === 1 ? `(${items},)` : `(${items})`;
  }
  if (v.type === "UndefinedValue") return "Undefined";
  return text(v);
}

/** Python's str: what `{{ value }}` prints. */
export function text(v: Value): string {
  switch (v.type) {
    case "StringValue":
      return v.value;
    case "IntegerValue":
      return String(v.value);
    case "FloatValue":
      return floatText(v.value);
    case "BooleanValue":
      return v.value ? "True" : "False";
    case "NullValue":
      return "None";
    case "UndefinedValue":
      return "";
    case "ArrayValue":
    case "TupleValue":
    case "ObjectValue":
      return repr(v);
    default:
      throw new TemplateRuntimeError("a function or namespace cannot be printed");
  }
}

export interface JsonOptions {
  ensureAscii: boolean;
  /** Spaces, or a text, of one level; undefined prints on one line. */
  indent: string | undefined;
  separators: [item: string, key: string] | undefined;
  sortKeys: boolean;
}

function jsonText(value: string, ensureAscii: boolean): string {
  // JSON.stringify escapes lone surrogates, which Python prints only when ASCII is asked for: both never occur in UTF-8 text.
  const plain = JSON.stringify(value);
  return ensureAscii
    ? plain.replace(/[\u007f-\uffff]/g, (c) => (c === "\u007f" ? c : `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`))
    : plain;
}

/** Python's json.dumps. */
export function json(v: Value, options: JsonOptions, depth = 0): string {
  meter.spend(1);
  const { indent, ensureAscii } = options;
  const [itemSeparator, keySeparator] = options.separators ?? [indent === undefined ? ", " : ",", ": "];
  const wrap = (open: string, items: string[], close: string) => {
    if (items.length === 0) return open + close;
    if (indent === undefined) return open + items.join(itemSeparator) + close;
    const inner = `\n${indent.repeat(depth + 1)}`;
    return `${open}${inner}${items.join(itemSeparator + inner)}\n${indent.repeat(depth)}${close}`;
  };
  switch (v.type) {
    case "StringValue":
      return jsonText(v.value, ensureAscii);
    case "NullValue":
      return "null";
    case "BooleanValue":
      return v.value ? "true" : "false";
    case "IntegerValue":
      return String(v.value);
    case "FloatValue":
      if (Number.isFinite(v.value)) return floatText(v.value);
      return Number.isNaN(v.value) ? "NaN" : v.value > 0 ? "Infinity" : "-Infinity";
    case "ArrayValue":
    case "TupleValue":
      return wrap(
        "[",
        v.value.map((x: Value) => json(x, options, depth + 1)),
        "]",
      );
    case "ObjectValue": {
      const entries = [...(v.value as Map<string, Value>)];
      if (options.sortKeys) entries.sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0));
      const items = entries.map(([key, x]) => jsonText(key, ensureAscii) + keySeparator + json(x, options, depth + 1));
      return wrap("{", items, "}");
    }
    default:
      throw new TemplateRuntimeError(
        `Object of type ${v.type === "UndefinedValue" ? "Undefined" : v.type} is not JSON serializable`,
      );
  }
}
