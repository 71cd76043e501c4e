import type { Tokenizer } from "@huggingface/tokenizers";

type Decoder = NonNullable<Tokenizer["decoder"]>;

/** Bytes that a byte-level token stands for: GPT-2's table of printable characters, inverted. */
const BYTE_OF_CHAR: ReadonlyMap<string, number> = (() => {
  const map = new Map<string, number>();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    map.set(String.fromCharCode(printable ? byte : next++), byte);
  }
  return map;
})();

const encoder = new TextEncoder();
// ignoreBOM keeps U+FEFF in the text.
const lossy = new TextDecoder("utf-8", { ignoreBOM: true });
const strict = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });

/** The bytes of a byte-level token; a token with a character outside the table stands for its own UTF-8 bytes. */
export function byteLevelBytes(token: string): Uint8Array {
  const bytes: number[] = [];
  for (const char of token) {
    const byte = BYTE_OF_CHAR.get(char);
    if (byte === undefined) return encoder.encode(token);
    bytes.push(byte);
  }
  return Uint8Array.from(bytes);
}

/** The byte of a `<0x..>` token of byte fallback, or undefined. */
export function fallbackByte(token: string): number | undefined {
  return /^<0x[0-9A-Fa-f]{2}>$/.test(token) ? Number.parseInt(token.slice(3, 5), 16) : undefined;
}

function decodeByteLevel(tokens: string[]): string[] {
  const parts = tokens.map(byteLevelBytes);
  const bytes = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return [lossy.decode(bytes)];
}

/** A run of byte tokens that is not valid UTF-8 as a whole gives one U+FFFD for each byte, as the Rust library does. */
function decodeByteFallback(tokens: string[]): string[] {
  const out: string[] = [];
  let run: number[] = [];
  const flush = () => {
    if (run.length === 0) return;
    try {
      out.push(strict.decode(Uint8Array.from(run)));
    } catch {
      for (let i = 0; i < run.length; i++) out.push("\uFFFD");
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = fallbackByte(token);
    if (byte !== undefined) {
      run.push(byte);
      continue;
    }
    flush();
    out.push(token);
  }
  flush();
  return out;
}

/** Marks are spaces; those of the first token stand for the prefix and go, all of them, unless none is ever put there. */
function decodeMetaspace(tokens: string[], config: { replacement?: unknown; prepend_scheme?: unknown }): string[] {
  const mark = (config.replacement ?? "▁") as string;
  return tokens.map((token, i) => token.replaceAll(mark, i === 0 && config.prepend_scheme !== "never" ? "" : " "));
}

/**
 * Replaces the three steps of a decoder in which the library differs from the Rust one: byte-level text (U+FEFF, and added
 * tokens, which pass through the byte table too), byte fallback (invalid runs) and Metaspace (the first token).
 */
export function mendDecoder(decoder: Decoder): void {
  const { type } = decoder.config;
  if (type === "ByteLevel") decoder.decode_chain = decodeByteLevel;
  if (type === "ByteFallback") decoder.decode_chain = decodeByteFallback;
  if (type === "Metaspace") decoder.decode_chain = (tokens: string[]) => decodeMetaspace(tokens, decoder.config);
  if (type === "Sequence") for (const part of (decoder as Decoder & { decoders: Decoder[] }).decoders) mendDecoder(part);
}

/** transformers' `clean_up_tokenization`: removes the spaces that word tokenizers put before punctuation. */
export function cleanUpSpaces(text: string): string {
  return text
    .replaceAll(" .", ".")
    .replaceAll(" ?", "?")
    .replaceAll(" !", "!")
    .replaceAll(" ,", ",")
    .replaceAll(" ' ", "'")
    .replaceAll(" n't", "n't")
    .replaceAll(" 'm", "'m")
    .replaceAll(" 's", "'s")
    .replaceAll(" 've", "'ve")
    .replaceAll(" 're", "'re");
}

/** Text of a growing list of ids, given out as soon as it can no longer change: an incomplete UTF-8 sequence is held back. */
export class StreamDecoder {
  private ids: number[] = [];
  /** How many of `ids` are already given out; they stay as context, for a decoder may strip the first space. */
  private given = 0;

  constructor(
    private readonly decode: (ids: number[]) => string,
    /** Tokens to wait for the end of a character before giving out what is there: bytes that never become text must not pile up. */
    private readonly patience = 16,
  ) {}

  /** Adds one id. Returns the text that is now certain, often empty. */
  push(id: number): string {
    this.ids.push(id);
    const text = this.pending();
    const waiting = this.ids.length - this.given;
    if (text === "" || (text.endsWith("\uFFFD") && waiting < this.patience)) return "";
    this.ids = this.ids.slice(this.given);
    this.given = this.ids.length;
    return text;
  }

  /** Returns what is still held back and starts anew. */
  flush(): string {
    const text = this.pending();
    this.ids = [];
    this.given = 0;
    return text;
  }

  private pending(): string {
    const before = this.given === 0 ? "" : this.decode(this.ids.slice(0, this.given));
    return this.decode(this.ids).slice(before.length);
  }
}
