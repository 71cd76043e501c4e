import { SPECIAL_TOKENS } from "./template.js";

/** The pre-tokenizer's pattern of GPT-2, which "ByteLevel" applies: a space belongs to the word after it. */
const WORDS = /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

/** GPT-2's printable stand-ins for the 256 bytes. */
function byteCharacters(): string[] {
  const table: string[] = [];
  let next = 256;
  for (let b = 0; b < 256; b++) {
    const printable = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
    table.push(String.fromCodePoint(printable ? b : next++));
  }
  return table;
}

/**
 * Trains a byte-level BPE on a text and returns the contents of tokenizer.json: special tokens first, then the 256 bytes, then merges
 * until there are `vocabSize` entries. Ties between pairs go to the one that sorts first, so the result depends on the text alone.
 */
export function trainBpe(text: string, vocabSize: number): object {
  const bytes = byteCharacters();
  const counts = new Map<string, number>();
  for (const segment of text.split(new RegExp(SPECIAL_TOKENS.map((t) => t.replaceAll("|", "\\|")).join("|")))) {
    for (const [word] of segment.matchAll(WORDS)) counts.set(word, (counts.get(word) ?? 0) + 1);
  }
  const words = [...counts].map(([word, count]) => ({ symbols: [...Buffer.from(word)].map((b) => bytes[b]!), count }));
  const vocab = [...SPECIAL_TOKENS, ...[...bytes].sort((a, b) => a.codePointAt(0)! - b.codePointAt(0)!)];
  const merges: [string, string][] = [];
  while (vocab.length < vocabSize) {
    const pair = mostFrequentPair(words);
    if (pair === undefined)
      throw new Error(`the text is too small for a vocabulary of ${vocabSize}: merges end at ${vocab.length}`);
    merges.push(pair);
    vocab.push(pair[0] + pair[1]);
    for (const word of words) merge(word.symbols, pair);
  }
  return tokenizerJson(vocab, merges);
}

function mostFrequentPair(words: readonly { symbols: string[]; count: number }[]): [string, string] | undefined {
  const pairs = new Map<string, number>();
  for (const { symbols, count } of words) {
    for (let i = 0; i + 1 < symbols.length; i++) {
      const key = `${symbols[i]} ${symbols[i + 1]}`;
      pairs.set(key, (pairs.get(key) ?? 0) + count);
    }
  }
  let best: string | undefined;
  for (const [key, count] of pairs) {
    const most = best === undefined ? 0 : pairs.get(best)!;
    if (best === undefined || count > most || (count === most && key < best)) best = key;
  }
  return best?.split(" ") as [string, string] | undefined;
}

function merge(symbols: string[], [left, right]: readonly [string, string]): void {
  for (let i = 0; i + 1 < symbols.length; i++) {
    if (symbols[i] === left && symbols[i + 1] === right) symbols.splice(i, 2, left + right);
  }
}

function tokenizerJson(vocab: readonly string[], merges: readonly (readonly [string, string])[]): object {
  return {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: SPECIAL_TOKENS.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true },
    post_processor: null,
    decoder: { type: "ByteLevel", add_prefix_space: true, trim_offsets: true, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: false,
      vocab: Object.fromEntries(vocab.map((token, id) => [token, id])),
      merges,
    },
  };
}
