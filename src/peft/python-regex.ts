import { LowrankError } from "../errors.js";

/** A Python `re` pattern, as PEFT's configurations hold them. Module names are ASCII, for which both engines agree. */
export interface PythonRegex {
  /** re.fullmatch(pattern, text) is not None */
  fullMatch(text: string): boolean;
  /** re.match(pattern, text): anchored at the start only. Group n is at [n]. */
  match(text: string): RegExpExecArray | null;
}

/**
 * Translates a Python regular expression (re, str patterns) to JavaScript: named groups, \A \Z $ . {,n}, global flags i m s x a u.
 * What JavaScript cannot express (conditionals, atomic groups, local flags, octal escapes) is refused, never approximated.
 * Throws INVALID_CONFIG.
 */
export function pythonRegex(pattern: string): PythonRegex {
  const { source, flags } = new Translator(pattern).run();
  try {
    const [full, start] = [new RegExp(`^(?:${source})$`, flags), new RegExp(`^(?:${source})`, flags)];
    // Compiled when first used: only then is one refused that is too large.
    for (const regex of [full, start]) regex.test("");
    return wrap(full, start);
  } catch (error) {
    throw bad(pattern, (error as Error).message.replace(/^Invalid regular expression: .*: /, ""));
  }
}

// ^ and $ outside the source mean the ends of the text: the m flag is translated away.
const wrap = (full: RegExp, start: RegExp): PythonRegex => ({
  fullMatch: (text) => full.test(text),
  match: (text) => start.exec(text),
});

const END = "(?![\\s\\S])";
const ESCAPES: Record<string, string> = {
  A: "(?<![\\s\\S])",
  Z: END,
  a: "\\x07",
  n: "\\n",
  t: "\\t",
  r: "\\r",
  f: "\\f",
  v: "\\v",
};

class Translator {
  private at = 0;
  private flags = new Set<string>();

  constructor(private readonly pattern: string) {}

  run(): { source: string; flags: string } {
    const global = /^\(\?([aiLmsux]+)\)/.exec(this.pattern);
    if (global) {
      if (global[1]!.includes("L")) throw this.refuse("the flag L");
      this.flags = new Set(global[1]);
      this.at = global[0].length;
    }
    let source = "";
    while (this.at < this.pattern.length) source += this.step();
    return { source, flags: this.flags.has("i") ? "iu" : "u" };
  }

  private step(): string {
    const c = this.pattern[this.at]!;
    if (this.flags.has("x")) {
      const ignored = /^(?:\s+|#[^\n]*)/.exec(this.pattern.slice(this.at));
      if (ignored) return this.emit(ignored[0].length, "");
    }
    switch (c) {
      case "\\":
        return this.escape(false);
      case "[":
        return this.characterClass();
      case "(":
        return this.group();
      case "{":
        return this.braces();
      case ".":
        return this.emit(1, this.flags.has("s") ? "[\\s\\S]" : "[^\\n]");
      case "^":
        return this.emit(1, this.flags.has("m") ? "(?<=\\n|(?<![\\s\\S]))" : "(?<![\\s\\S])");
      case "$":
        return this.emit(1, this.flags.has("m") ? `(?=\\n|${END})` : `(?=\\n?${END})`);
      case "]":
      case "}":
      case "/":
        return this.emit(1, `\\${c}`);
      default:
        return this.emit(1, c);
    }
  }

  /** Moves past `length` characters of the pattern, which become `text`. */
  private emit(length: number, text: string): string {
    this.at += length;
    return text;
  }

  private group(): string {
    const rest = this.pattern.slice(this.at);
    if (!rest.startsWith("(?")) return this.emit(1, "(");
    const named = /^\(\?P<([A-Za-z_]\w*)>/.exec(rest);
    if (named) return this.emit(named[0].length, `(?<${named[1]}>`);
    const backreference = /^\(\?P=([A-Za-z_]\w*)\)/.exec(rest);
    if (backreference) return this.emit(backreference[0].length, `\\k<${backreference[1]}>`);
    const comment = /^\(\?#[^)]*\)/.exec(rest);
    if (comment) return this.emit(comment[0].length, "");
    const kind = /^\(\?(?::|=|!|<=|<!)/.exec(rest);
    if (kind) return this.emit(kind[0].length, kind[0]);
    throw this.refuse(`the group ${rest.slice(0, 4)}…`);
  }

  private braces(): string {
    const quantifier = /^\{(\d*)(?:(,)(\d*))?\}/.exec(this.pattern.slice(this.at));
    if (!quantifier || (quantifier[1] === "" && quantifier[2] === undefined)) return this.emit(1, "\\{");
    const [whole, low, comma, high] = quantifier;
    return this.emit(whole.length, `{${low || "0"}${comma ?? ""}${high ?? ""}}`);
  }

  private escape(inClass: boolean): string {
    const rest = this.pattern.slice(this.at);
    const c = rest[1];
    if (c === undefined) throw this.fail("bad escape (end of pattern)");
    const code = /^\\x([0-9a-fA-F]{2})|^\\u([0-9a-fA-F]{4})|^\\U([0-9a-fA-F]{8})/.exec(rest);
    if (code) return this.emit(code[0].length, `\\u{${code[1] ?? code[2] ?? code[3]}}`);
    const number = /^\\(\d+)/.exec(rest);
    if (number) {
      if (inClass || number[1]!.startsWith("0") || number[1]!.length > 2) throw this.refuse(`the escape ${number[0]}`);
      return this.emit(number[0].length, `(?:${number[0]})`);
    }
    if (/[dDsSwW]/.test(c) || (c === "b" && inClass) || (/[bB]/.test(c) && !inClass)) return this.emit(2, `\\${c}`);
    const known = ESCAPES[c];
    if (known !== undefined && !(inClass && /[AZ]/.test(c))) return this.emit(2, known);
    if (/[A-Za-z]/.test(c)) throw this.fail(`bad escape \\${c}`);
    // The u flag allows escapes of syntax characters only (and of "-" in classes).
    return this.emit(2, /[\\^$.*+?()[\]{}|/]/.test(c) || (c === "-" && inClass) ? `\\${c}` : c);
  }

  private characterClass(): string {
    let out = this.emit(1, "[");
    if (this.pattern[this.at] === "^") out += this.emit(1, "^");
    for (let first = true; ; first = false) {
      const c = this.pattern[this.at];
      if (c === undefined) throw this.fail("unterminated character set");
      if (c === "]" && !first) return out + this.emit(1, "]");
      out += c === "\\" ? this.escape(true) : this.emit(1, c === "[" || c === "]" ? `\\${c}` : c);
    }
  }

  private refuse(what: string): LowrankError {
    return bad(this.pattern, `${what} cannot be expressed in JavaScript; write the pattern without it`);
  }

  private fail(what: string): LowrankError {
    return bad(this.pattern, `${what} at position ${this.at}`);
  }
}

function bad(pattern: string, why: string): LowrankError {
  return new LowrankError("INVALID_CONFIG", `'${pattern}' is not a usable regular expression: ${why}`, { details: { pattern } });
}
