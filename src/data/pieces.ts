/** Cuts a file into the texts of its rows while it is read: memory holds one row, whatever the file's size. */
import { LowrankError } from "../errors.js";
import { LIMITS, openFile } from "../io/input.js";

const CHUNK = 1 << 18;
const LF = 0x0a;
const CR = 0x0d;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN_LIST = 0x5b;
const CLOSE_LIST = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;
const isSpace = (byte: number) => byte === 0x20 || byte === LF || byte === CR || byte === 0x09;

/** A row's text, and where it stands for errors: "line 3" or "row 3". */
export interface Piece {
  text: string;
  at: string;
}

export const badData = (path: string, what: string, hint?: string) =>
  new LowrankError("DATASET", `${path}: ${what}`, { ...(hint ? { hint } : {}), details: { path } });

/** The file's bytes in parts; each is valid until the next one is asked for. */
export async function* chunks(path: string): AsyncGenerator<Buffer> {
  const handle = await openFile(path);
  try {
    const buffer = Buffer.allocUnsafe(CHUNK);
    for (;;) {
      const { bytesRead } = await handle.read(buffer, 0, CHUNK);
      if (bytesRead === 0) return;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}

/** Bytes of the row that is being read, which may come in several chunks. */
class Gathered {
  private parts: Buffer[] = [];
  private size = 0;
  private readonly decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

  constructor(private readonly path: string) {}

  get empty(): boolean {
    return this.size === 0;
  }

  /** Keeps a copy: the chunk's buffer is used again. */
  add(part: Buffer, at: string): void {
    this.size += part.length;
    if (this.size > LIMITS.row.bytes) throw badData(this.path, `${at} is longer than ${LIMITS.row.bytes >> 20} MiB`);
    if (part.length > 0) this.parts.push(Buffer.from(part));
  }

  /** The row that ends with `last`. */
  take(last: Buffer, at: string): Piece {
    let bytes = last;
    if (this.size > 0) {
      this.add(last, at);
      bytes = Buffer.concat(this.parts);
      this.parts = [];
      this.size = 0;
    }
    try {
      return { text: this.decoder.decode(bytes), at };
    } catch (cause) {
      throw new LowrankError("DATASET", `${this.path}: ${at} is not UTF-8 text`, { details: { path: this.path }, cause });
    }
  }
}

/** Lines of a file without their ends (\n, \r\n or \r), in groups; a last line end opens no further line. */
export async function* lines(path: string): AsyncGenerator<Piece[]> {
  const row = new Gathered(path);
  let number = 1;
  let afterReturn = false;
  for await (const chunk of chunks(path)) {
    const found: Piece[] = [];
    let at = afterReturn && chunk[0] === LF ? 1 : 0;
    afterReturn = false;
    let feed = -1;
    let back = -1;
    const next = (byte: number, from: number) => {
      const index = chunk.indexOf(byte, from);
      return index < 0 ? chunk.length : index;
    };
    while (at < chunk.length) {
      if (feed < at) feed = next(LF, at);
      if (back < at) back = next(CR, at);
      const end = Math.min(feed, back);
      if (end === chunk.length) break;
      found.push(row.take(chunk.subarray(at, end), `line ${number++}`));
      afterReturn = end === back && end + 1 === chunk.length;
      at = end + (end === back && chunk[end + 1] === LF ? 2 : 1);
    }
    row.add(chunk.subarray(at), `line ${number}`);
    yield found;
  }
  if (!row.empty) yield [row.take(Buffer.alloc(0), `line ${number}`)];
}

type State = "begin" | "between" | "value" | "string" | "escape" | "end";

/** Values of a JSON file: the elements of its list, or the objects that stand one behind the other on lines of their own. */
export async function* jsonValues(path: string): AsyncGenerator<Piece[]> {
  const row = new Gathered(path);
  let number = 1;
  /** Brackets that are open around a value: 1 in a list, 0 outside. */
  let base = 0;
  let depth = 0;
  let state = "begin" as State;
  let bom = 0;
  let newLine = true;
  const broken = (why: string) => badData(path, `is not valid JSON: ${why}`);
  for await (const chunk of chunks(path)) {
    const found: Piece[] = [];
    let begin = 0;
    for (let i = 0; i < chunk.length; i++) {
      const byte = chunk[i]!;
      switch (state) {
        case "escape":
          state = "string";
          break;
        case "string":
          if (byte === QUOTE) state = "value";
          else if (byte === BACKSLASH) state = "escape";
          break;
        case "value":
          if (byte === QUOTE) state = "string";
          else if (byte === OPEN_LIST || byte === OPEN_OBJECT) depth++;
          else if (depth === base && base === 1 && (byte === COMMA || byte === CLOSE_LIST)) {
            found.push(row.take(chunk.subarray(begin, i), `row ${number++}`));
            begin = i + 1;
            if (byte === CLOSE_LIST) state = "end";
          } else if ((byte === CLOSE_LIST || byte === CLOSE_OBJECT) && depth > base && --depth === 0) {
            found.push(row.take(chunk.subarray(begin, i + 1), `row ${number++}`));
            state = "between";
            newLine = false;
          }
          break;
        case "begin":
          if (isSpace(byte) || (bom < 3 && byte === [0xef, 0xbb, 0xbf][bom++])) break;
          if (byte === OPEN_LIST) {
            base = depth = 1;
            begin = i + 1;
            state = "value";
          } else if (byte === OPEN_OBJECT) {
            begin = i;
            depth = 1;
            state = "value";
          } else throw broken("it begins with neither a list nor an object");
          break;
        case "between":
          if (byte === LF || byte === CR) newLine = true;
          if (isSpace(byte)) break;
          if (byte !== OPEN_OBJECT || !newLine)
            throw broken(`unexpected ${JSON.stringify(String.fromCharCode(byte))} behind row ${number - 1}`);
          begin = i;
          depth = 1;
          state = "value";
          break;
        case "end":
          if (!isSpace(byte)) throw broken("something stands behind its list");
      }
    }
    if (state === "value" || state === "string" || state === "escape") row.add(chunk.subarray(begin), `row ${number}`);
    yield found;
  }
  if (state === "begin") throw broken("it is empty");
  if (state !== "between" && state !== "end") throw broken(`it ends in the middle of row ${number}`);
}
