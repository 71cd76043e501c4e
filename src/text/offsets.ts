import { byteLevelBytes, fallbackByte } from "./decode.js";

/** Range of characters (UTF-16 units) of the text that a token covers, end exclusive. */
export type Offset = readonly [start: number, end: number];

const encoder = new TextEncoder();
const sameOrSpace = (a: string, b: string) => a === b || (a === " " && b === "▁");

/**
 * For each position of `changed` (its length + 1 of them) the position in `raw` it came from. Knows what normalizers of
 * language models do: nothing, spaces to ▁, a prefix, composition of characters. Undefined for anything else.
 */
function align(raw: string, changed: string, normalize: (text: string) => string): number[] | undefined {
  const shift = changed.length - raw.length;
  if (shift >= 0 && Array.from({ length: raw.length }, (_, i) => i).every((i) => sameOrSpace(raw[i]!, changed[i + shift]!))) {
    return Array.from({ length: changed.length + 1 }, (_, i) => Math.max(0, i - shift));
  }
  const map: number[] = [];
  let text = "";
  for (const cluster of raw.matchAll(/\P{M}\p{M}*|\p{M}+/gu)) {
    const piece = normalize(cluster[0]);
    for (let i = 0; i < piece.length; i++) map.push(cluster.index);
    text += piece;
  }
  map.push(raw.length);
  return text === changed ? map : undefined;
}

/** Byte ranges of byte-level tokens turned into ranges of `text`; a token that holds part of a character covers it. */
function byteLevelRanges(tokens: string[], text: string): Offset[] | undefined {
  const charOfByte: number[] = [];
  let at = 0;
  for (const char of text) {
    for (let n = encoder.encode(char).length; n > 0; n--) charOfByte.push(at);
    at += char.length;
  }
  const widthAt = (index: number) => (text.codePointAt(index)! > 0xffff ? 2 : 1);
  const lengths = tokens.map((token) => byteLevelBytes(token).length);
  // A prefix space has no place in the text.
  let byte = charOfByte.length - lengths.reduce((a, b) => a + b, 0);
  if (byte !== 0 && byte !== -1) return undefined;
  return lengths.map((length): Offset => {
    const first = charOfByte[Math.max(0, byte)] ?? text.length;
    byte += length;
    const last = charOfByte[byte - 1];
    return last === undefined ? [first, first] : [first, last + widthAt(last)];
  });
}

/** Ranges of tokens that are pieces of `text` themselves, or `<0x..>` bytes of its characters. */
function plainRanges(tokens: string[], text: string): Offset[] | undefined {
  const ranges: Offset[] = [];
  let at = 0;
  let bytesLeft = 0;
  for (const token of tokens) {
    const char = at < text.length ? String.fromCodePoint(text.codePointAt(at)!) : "";
    if (bytesLeft === 0 && token !== "" && text.startsWith(token, at)) {
      ranges.push([at, at + token.length]);
      at += token.length;
      continue;
    }
    if (fallbackByte(token) === undefined || char === "") return undefined;
    if (bytesLeft === 0) bytesLeft = encoder.encode(char).length;
    ranges.push([at, at + char.length]);
    if (--bytesLeft === 0) at += char.length;
  }
  return at === text.length ? ranges : undefined;
}

/**
 * Offsets of the tokens of one piece of text (no added token inside), relative to that piece.
 *
 * @param raw the text as given
 * @param changed the text after the normalizer, and for tokenizers that are not byte-level after the pre-tokenizer too
 * @returns undefined when the tokenizer changes the text in a way that cannot be followed
 */
export function tokenOffsets(
  raw: string,
  changed: string,
  tokens: string[],
  byteLevel: boolean,
  normalize: (text: string) => string,
): Offset[] | undefined {
  const back = align(raw, changed, normalize);
  const ranges = byteLevel ? byteLevelRanges(tokens, changed) : plainRanges(tokens, changed);
  if (!back || !ranges) return undefined;
  return ranges.map(([start, end]): Offset => {
    if (end === start) return [back[start]!, back[start]!];
    // The end of a range is the start of the first raw character behind it.
    let next = end;
    while (next < changed.length && back[next] === back[end - 1]) next++;
    return [back[start]!, back[next]!];
  });
}
