import { meter, TemplateRuntimeError } from "./limits.js";
import { isSpace } from "./spaces.js";

export type TokenType = "data" | "begin" | "end" | "print" | "endprint" | "name" | "string" | "int" | "float" | "op" | "eof";
export interface Token {
  readonly type: TokenType;
  readonly value: string;
  readonly line: number;
}

const TAG = /\{[{%#]/g;
const OPERATOR = /\/\/|\*\*|==|!=|>=|<=|[-+/*%~[\](){}<>=.:|,;]/y;
const FLOAT = /(?:\d+_)*\d+(?:(?:\.(?:\d+_)*\d+)?e[+-]?(?:\d+_)*\d+|\.(?:\d+_)*\d+)/iy;
const INTEGER = /0b(?:_?[01])+|0o(?:_?[0-7])+|0x(?:_?[\da-f])+|[1-9](?:_?\d)*|0(?:_?0)*/iy;
const NAME = /[\p{L}\p{N}\p{M}\p{Pc}·]+/uy;
const IDENTIFIER = /^[\p{ID_Start}_]\p{ID_Continue}*$/u;
const STRING = /'[^'\\]*(?:\\.[^'\\]*)*'|"[^"\\]*(?:\\.[^"\\]*)*"/sy;
const RAW_BEGIN = /\{%[-+]?\s*raw\s*(-?)%\}/y;
const RAW_END = /\{%([-+]?)\s*endraw\s*(?:\+%\}|-%\}|%\}\n?)/g;
const CLOSES: Readonly<Record<string, string>> = { "(": ")", "[": "]", "{": "}" };
/** Python converts no more digits than this. */
const MAX_DIGITS = 4300;

/**
 * Cuts a template into tokens as Jinja 3.1 does with trim_blocks and lstrip_blocks: its rules for white space, raw blocks,
 * comments, names, numbers and texts. Time is linear in the template.
 *
 * @throws TemplateRuntimeError where Jinja has a syntax error
 */
export function tokenize(template: string): Token[] {
  meter.spend(template.length / 4);
  // Jinja reads any line end as \n, and leaves the last one out.
  const source = template.replace(/\r\n?/g, "\n").replace(/\n$/, "");
  const tokens: Token[] = [];
  let at = 0;
  let line = 1;
  let counted = 0;
  /** The tag or comment before ended its line. */
  let lineStarting = true;
  const lineOf = (position: number) => {
    for (; counted < position; counted++) if (source.charCodeAt(counted) === 10) line++;
    return line;
  };
  const push = (type: TokenType, value: string, position: number) => {
    // A token, and the nodes that become of it.
    meter.spend(4);
    tokens.push({ type, value, line: lineOf(position) });
  };
  const fail = (message: string, position: number): never => {
    throw new TemplateRuntimeError(`${message}, line ${lineOf(position)}`);
  };
  const skipSpaces = () => {
    while (at < source.length && isSpace(source.charCodeAt(at))) at++;
  };
  const match = (pattern: RegExp): string | undefined => {
    pattern.lastIndex = at;
    return pattern.exec(source)?.[0];
  };
  /** Text before a tag, cut as the tag's sign or lstrip_blocks says. */
  const data = (text: string, position: number, sign: string | undefined, block: boolean) => {
    let end = text.length;
    if (sign === "-") while (end > 0 && isSpace(text.charCodeAt(end - 1))) end--;
    else if (sign !== "+" && block) {
      const lineStart = text.lastIndexOf("\n") + 1;
      if (lineStart > 0 || lineStarting) {
        let i = text.length;
        while (i > lineStart && isSpace(text.charCodeAt(i - 1))) i--;
        if (i === lineStart) end = lineStart;
      }
    }
    if (end > 0) push("data", text.slice(0, end), position);
  };
  const signAt = (position: number) => (/[-+]/.test(source[position] ?? "") ? source[position] : undefined);

  while (at < source.length) {
    TAG.lastIndex = at;
    const start = at;
    const tag = TAG.exec(source)?.index;
    if (tag === undefined) {
      push("data", source.slice(at), at);
      break;
    }
    const kind = source[tag + 1]!;
    RAW_BEGIN.lastIndex = tag;
    const raw = kind === "%" ? RAW_BEGIN.exec(source) : null;
    data(source.slice(start, tag), start, signAt(tag + 2), kind !== "{");
    if (raw) {
      at = tag + raw[0].length;
      if (raw[1] === "-") skipSpaces();
      lineStarting = source[at - 1] === "\n";
      RAW_END.lastIndex = at;
      const close = RAW_END.exec(source) ?? fail("Missing end of raw directive", tag);
      data(source.slice(at, close.index), at, close[1] || undefined, true);
      at = close.index + close[0].length;
      if (close[0].endsWith("-%}")) skipSpaces();
      lineStarting = source[at - 1] === "\n";
      continue;
    }
    at = tag + (signAt(tag + 2) ? 3 : 2);
    if (kind === "#") {
      const close = source.indexOf("#}", at);
      if (close < 0) fail("Missing end of comment tag", tag);
      const sign = close > at ? source[close - 1] : "";
      at = close + 2;
      if (sign === "-") skipSpaces();
      else if (sign !== "+" && source[at] === "\n") at++;
      lineStarting = source[at - 1] === "\n";
      continue;
    }
    push(kind === "%" ? "begin" : "print", source.slice(tag, at), tag);
    inTag(kind === "%");
    lineStarting = source[at - 1] === "\n";
  }
  push("eof", "", source.length);
  return tokens;

  /** Tokens up to the end of the tag. */
  function inTag(block: boolean): void {
    const open: string[] = [];
    const closing = block ? "%}" : "}}";
    for (;;) {
      skipSpaces();
      if (at >= source.length) {
        // The parser says what is missing.
        return;
      }
      if (open.length === 0) {
        const sign = source.startsWith(closing, at + 1) ? source[at] : "";
        if (source.startsWith(closing, at) || sign === "-" || (sign === "+" && block)) {
          push(block ? "end" : "endprint", closing, at);
          at += sign === "-" || sign === "+" ? 3 : 2;
          if (sign === "-") skipSpaces();
          else if (block && sign !== "+" && source[at] === "\n") at++;
          return;
        }
      }
      const found =
        (source[at - 1] !== "." && word("float", match(FLOAT))) ||
        word("int", match(INTEGER)) ||
        word("name", match(NAME)) ||
        word("string", match(STRING)) ||
        word("op", match(OPERATOR));
      if (!found) fail(`unexpected char ${JSON.stringify(source[at])}`, at);
      const last = tokens.at(-1)!;
      if (last.type !== "op") continue;
      if (CLOSES[last.value]) open.push(CLOSES[last.value]!);
      else if (")]}".includes(last.value) && open.pop() !== last.value) fail(`unexpected '${last.value}'`, at - 1);
    }
  }

  function word(type: TokenType, text: string | undefined): boolean {
    if (text === undefined) return false;
    if ((type === "int" || type === "float") && text.length > MAX_DIGITS) fail("a number has too many digits", at);
    if (type === "name" && !IDENTIFIER.test(text)) fail("Invalid character in identifier", at);
    push(
      type,
      type === "string" ? unescaped(text.slice(1, -1), () => fail("this escape sequence is not supported", at)) : text,
      at,
    );
    at += text.length;
    return true;
  }
}

const ESCAPES: Readonly<Record<string, string>> = {
  "\n": "",
  "\\": "\\",
  "'": "'",
  '"': '"',
  a: "\x07",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
  v: "\v",
};

/** Python's unicode-escape codec, as Jinja applies it to the inside of a text. */
function unescaped(text: string, refuse: () => never): string {
  return text.replace(
    /\\(?:([0-7]{1,3})|x([\da-fA-F]{2})|u([\da-fA-F]{4})|U([\da-fA-F]{8})|(.))/gsu,
    (whole, octal?: string, x?: string, u?: string, U?: string, other?: string) => {
      const code = octal ? Number.parseInt(octal, 8) : Number.parseInt(x ?? u ?? U ?? "-1", 16);
      if (code >= 0) return code > 0x10ffff || (code >= 0xd800 && code < 0xe000) ? refuse() : String.fromCodePoint(code);
      if (Object.hasOwn(ESCAPES, other!)) return ESCAPES[other!]!;
      if ("xuUN".includes(other!)) return refuse();
      // A character beyond ASCII is itself written as an escape before the codec runs.
      const point = other!.codePointAt(0)!;
      if (point < 128) return whole;
      const hex = point.toString(16);
      return point < 0x100 ? `\\x${hex}` : point < 0x10000 ? `\\u${hex.padStart(4, "0")}` : `\\U${hex.padStart(8, "0")}`;
    },
  );
}
