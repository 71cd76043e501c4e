import { LIMITS, type Limits } from "../io/input.js";
import { scanJson } from "../io/json.js";

/**
 * JSON with Python's numbers: a number written with a point or an exponent is a float even when it is whole (a `Number`
 * object, which chat templates print as `1.0`), and an integer beyond 2^53 is a bigint. Everything else is as JSON.parse gives it.
 *
 * @throws SyntaxError as JSON.parse does, also for a key that stands twice in one object and for more than the limits allow
 */
export function parseJson(text: string, { values }: Limits = LIMITS.row): unknown {
  const { duplicate } = scanJson(text, values);
  const plain = JSON.parse(text);
  if (duplicate)
    throw new SyntaxError(`the key ${JSON.stringify(duplicate.key)} stands twice in one object, at position ${duplicate.at}`);
  // Only numbers of these forms lose something; most texts have none.
  if (!/\d\.0+(?!\d)|\d[eE][+-]?\d|\d{16}/.test(text)) return plain;
  return new Reader(text).value();
}

/** Reads a text that JSON.parse has accepted already, so it need not check anything. */
class Reader {
  private at = 0;
  constructor(private readonly text: string) {}

  value(): unknown {
    this.space();
    const char = this.text[this.at];
    if (char === "{") return this.object();
    if (char === "[") return this.array();
    if (char === '"') return this.string();
    const [word] = this.match(/[^\s,\]}]+/y);
    if (word === "true") return true;
    if (word === "false") return false;
    if (word === "null") return null;
    return number(word);
  }

  private object(): Record<string, unknown> {
    const entries: [string, unknown][] = [];
    this.at++;
    while (!this.closes("}")) {
      const key = this.string();
      this.space();
      this.at++; // the colon
      entries.push([key, this.value()]);
    }
    // fromEntries keeps a key `__proto__` as a plain one, as JSON.parse does.
    return Object.fromEntries(entries);
  }

  private array(): unknown[] {
    const items: unknown[] = [];
    this.at++;
    while (!this.closes("]")) items.push(this.value());
    return items;
  }

  /** Steps over white space and a comma; true, past it, at the closing bracket. */
  private closes(bracket: string): boolean {
    this.match(/[\s,]*/y);
    if (this.text[this.at] !== bracket) return false;
    this.at++;
    return true;
  }

  private string(): string {
    return JSON.parse(this.match(/"(?:[^"\\]|\\.)*"/y)[0]) as string;
  }

  private space(): void {
    this.match(/\s*/y);
  }

  private match(pattern: RegExp): RegExpExecArray {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text)!;
    this.at = pattern.lastIndex;
    return found;
  }
}

function number(word: string): unknown {
  const value = Number(word);
  if (/^-?\d+$/.test(word)) return Number.isSafeInteger(value) ? value : BigInt(word);
  return Number.isInteger(value) ? new Number(value) : value;
}
