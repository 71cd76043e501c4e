import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest";
import { AutoTokenizer, type Tokenizer } from "../../src/text/tokenizer.js";

// Expected values: Python's tokenizers 0.23.3.

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "parts-"));
});
afterAll(() => rm(folder, { recursive: true }));
afterEach(() => vi.restoreAllMocks());

const LETTERS = [..."ab 1σςi\u0307s$▁x\n\ufeff.½\u200d"];
const vocab = Object.fromEntries(["?", ...LETTERS].map((char, i) => [char, i]));

/** A tokenizer of single characters; unknown ones are `?`. Pairs are merged unless a pre-tokenizer cut between them. */
async function load(parts: object, merges: [string, string][] = []): Promise<Tokenizer> {
  const all = { ...vocab };
  for (const pair of merges) all[pair.join("")] = Object.keys(all).length;
  const model = { type: "BPE", vocab: all, merges, unk_token: "?" };
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify({ model, decoder: { type: "Fuse" }, ...parts }));
  return AutoTokenizer.fromPretrained(folder);
}
/** The tokens of a text. */
const cut = (tok: Tokenizer, text: string) => tok.encode(text).map((id) => tok.idToToken(id));

describe("pre-tokenizers", () => {
  const pairs = (text: string) => {
    const merges: [string, string][] = [];
    for (const a of text) for (const b of text) merges.push([a, b]);
    return merges;
  };
  const split = (behavior: string, invert: boolean) => ({
    pre_tokenizer: { type: "Split", pattern: { String: "a" }, behavior, invert },
  });

  it.each([
    ["Removed", false, ["b", "b"]],
    ["Removed", true, ["a", "a", "a"]],
    ["Isolated", false, ["b", "a", "a", "b", "a"]],
    ["Isolated", true, ["b", "a", "a", "b", "a"]],
    ["Contiguous", false, ["b", "aa", "b", "a"]],
    ["Contiguous", true, ["b", "aa", "b", "a"]],
    ["MergedWithPrevious", false, ["ba", "a", "ba"]],
    ["MergedWithPrevious", true, ["b", "a", "ab", "a"]],
    ["MergedWithNext", false, ["b", "a", "ab", "a"]],
    ["MergedWithNext", true, ["ba", "a", "ba"]],
  ])("Split %s, inverted %s", async (behavior, invert, expected) => {
    expect(cut(await load(split(behavior, invert), pairs("ab")), "baaba")).toEqual(expected);
  });

  it.each([
    ["Whitespace", {}, "a\u200da .. \ufeffa", ["a", "\u200d", "a", "..", "\ufeff", "a"], [[".", "."]]],
    ["WhitespaceSplit", {}, "a\ufeff b", ["a\ufeff", "b"], [["a", "\ufeff"]]],
    [
      "BertPreTokenizer",
      {},
      "a\ufeff b..",
      ["a\ufeff", "b", ".", "."],
      [
        ["a", "\ufeff"],
        [".", "."],
      ],
    ],
    ["Punctuation", {}, "..a", [".", ".", "a"], [[".", "."]]],
    ["Punctuation", { behavior: "Contiguous" }, "..a", ["..", "a"], [[".", "."]]],
    ["Digits", { individual_digits: true }, "½½", ["½", "½"], [["½", "½"]]],
    [
      "Digits",
      { individual_digits: false },
      "a½½",
      ["a", "½½"],
      [
        ["½", "½"],
        ["a", "½½"],
      ],
    ],
    ["FixedLength", { length: 2 }, "?😀ab", ["?", "?", "ab"], [["a", "b"]]],
    [
      "Metaspace",
      { prepend_scheme: "never" },
      "a  a",
      ["a", "▁", "▁a"],
      [
        ["▁", "▁"],
        ["▁", "a"],
      ],
    ],
    ["Metaspace", { prepend_scheme: "never", split: false }, "a  a", ["a", "▁▁", "a"], [["▁", "▁"]]],
  ])("%s %o", async (type, options, text, expected, merges) => {
    const tok = await load({ pre_tokenizer: { type, ...options } }, merges as [string, string][]);
    expect(cut(tok, text)).toEqual(expected);
  });

  it("puts Metaspace's prefix at the beginning of the text only, not behind a normalized added token", async () => {
    const added = [{ id: 40, content: "<t>", special: false, normalized: true }];
    const pre = { type: "Metaspace", prepend_scheme: "first" };
    expect(cut(await load({ pre_tokenizer: pre, added_tokens: added }), "a<t>b")).toEqual(["▁", "a", "<t>", "b"]);
  });
});

describe("normalizers", () => {
  it.each([
    ["Lowercase", {}, "AΣ", "aσ"],
    ["Strip", { strip_left: true, strip_right: true }, " \u0085a\ufeff\n", "a\ufeff"],
    ["Replace", { pattern: { String: "a" }, content: "$$" }, "ab", "$$b"],
    ["Prepend", { prepend: "x" }, "a", "xa"],
  ])("%s %o", async (type, options, text, expected) => {
    const tok = await load({ normalizer: { type, ...options } });
    expect(cut(tok, text).join("")).toBe(expected);
  });

  it("prepends nothing to an empty text", async () => {
    const normalizers = [
      { type: "Strip", strip_left: true, strip_right: false },
      { type: "Prepend", prepend: "x" },
    ];
    expect((await load({ normalizer: { type: "Sequence", normalizers } })).encode("  ")).toEqual([]);
  });

  it("decodes a normalized added token as its normalized text", async () => {
    const added = [{ id: 40, content: "a b", special: false, normalized: true }];
    const tok = await load({ normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" }, added_tokens: added });
    expect(tok.encode("xa b")).toEqual([vocab.x, 40]);
    expect(tok.decode([40])).toBe("a▁b");
  });
});

it("decodes Metaspace without a prefix where none is put", async () => {
  const ids = ["▁", "▁", "a"].map((char) => vocab[char] as number);
  const merged: [string, string][] = [["▁", "▁"]];
  const decoder = (prepend_scheme: string) => ({ decoder: { type: "Metaspace", replacement: "▁", prepend_scheme } });
  expect((await load(decoder("never"))).decode(ids)).toBe("  a");
  expect((await load(decoder("first"))).decode(ids)).toBe(" a");
  const tok = await load(decoder("always"), merged);
  expect(tok.decode([tok.tokenToId("▁▁") as number, ...ids])).toBe("  a");
});

it("takes the type of a model that does not say it from its fields", async () => {
  const model = { vocab: { ...vocab, ab: 30 }, merges: ["a b"], unk_token: "?" };
  expect((await load({ model })).encode("abx")).toEqual([30, vocab.x]);
});

it("merges across characters that a vocabulary without an unknown token lacks", async () => {
  const model = { type: "BPE", vocab: { a: 0, b: 1, ab: 2 }, merges: [["a", "b"]] };
  expect((await load({ model })).encode("aéb")).toEqual([2]);
});

describe("refused by name", () => {
  const unigram = { type: "Unigram", vocab: [["?", 0]], unk_id: 0 };
  const bpe = { type: "BPE", vocab, merges: [], unk_token: "?" };
  it.each([
    [{ normalizer: { type: "BertNormalizer" } }, "normalizer", "BertNormalizer", undefined],
    [{ normalizer: { type: "Precompiled" } }, "normalizer", "Precompiled", undefined],
    [{ normalizer: { type: "Sequence", normalizers: [{ type: "Nmt" }] } }, "normalizer", "Nmt", undefined],
    [{ normalizer: { type: "Replace", pattern: {}, content: "" } }, "normalizer", "Replace", "pattern"],
    [{ pre_tokenizer: { type: "CharDelimiterSplit" } }, "pre_tokenizer", "CharDelimiterSplit", undefined],
    [{ pre_tokenizer: { type: "Split", pattern: { String: "a" }, behavior: "isolated" } }, "pre_tokenizer", "Split", "behavior"],
    [{ pre_tokenizer: { type: "Split", pattern: "a", behavior: "Isolated" } }, "pre_tokenizer", "Split", "pattern"],
    [{ pre_tokenizer: { type: "Split", behavior: "Isolated" } }, "pre_tokenizer", "Split", "pattern"],
    [{ decoder: { type: "Sequence", decoders: [{ type: "Replace", pattern: {} }] } }, "decoder", "Replace", "pattern"],
    [{ pre_tokenizer: { type: "Punctuation", behavior: 1 } }, "pre_tokenizer", "Punctuation", "behavior"],
    [{ pre_tokenizer: { type: "Metaspace", add_prefix_space: false } }, "pre_tokenizer", "Metaspace", "add_prefix_space"],
    [{ decoder: { type: "Sequence", decoders: [{ type: "CTC" }] } }, "decoder", "CTC", undefined],
    [{ post_processor: { type: "Other" } }, "post_processor", "Other", undefined],
    [{ model: { type: "WordLevel", vocab: {} } }, "model", "WordLevel", undefined],
    [{ model: { vocab: {} } }, "model", "WordLevel", undefined],
    [{ model: { ...unigram, byte_fallback: true } }, "model", "Unigram", "byte_fallback"],
    [{ model: { ...bpe, byte_fallback: true, merges: [["a", "<0x41>"]] } }, "model", "BPE", "merges"],
    [{ model: { ...bpe, dropout: 0.1 } }, "model", "BPE", "dropout"],
    [{ model: { ...bpe, continuing_subword_prefix: "##" } }, "model", "BPE", "continuing_subword_prefix"],
    [{ model: { ...bpe, end_of_word_suffix: "</w>" } }, "model", "BPE", "end_of_word_suffix"],
  ])("%j", async (parts, step, part, option) => {
    const prints = (["log", "info", "warn", "error"] as const).map((name) => vi.spyOn(console, name));
    const error = await load(parts).catch((e) => e);
    expect(error).toMatchObject({ code: "UNSUPPORTED", message: expect.stringContaining(part), details: { step, part } });
    expect(error.details.option).toBe(option);
    // The library says what it does not know on the console, once it is asked: our refusal comes first.
    for (const print of prints) expect(print).not.toHaveBeenCalled();
  });
});
