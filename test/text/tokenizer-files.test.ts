import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { AutoTokenizer } from "../../src/text/tokenizer.js";
import { modelType } from "../../src/text/tokenizer-parts.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tokenizer-files-"));
});
afterAll(() => rm(folder, { recursive: true }));

const MODEL = { type: "BPE", vocab: { a: 0, b: 1, ".": 2, "<0xE4>": 3, "<0xB8>": 4, "<0xAD>": 5 }, merges: [], unk_token: "a" };

async function load(name: string, files: Record<string, unknown>) {
  const dir = join(folder, name);
  await mkdir(dir, { recursive: true });
  for (const [file, content] of Object.entries(files))
    await writeFile(join(dir, file), typeof content === "string" ? content : JSON.stringify(content));
  return AutoTokenizer.fromPretrained(dir);
}

describe("chat templates", () => {
  const from = async (name: string, files: Record<string, unknown>) =>
    (await load(name, { "tokenizer.json": { model: MODEL }, ...files })).chatTemplates;

  it("come from a list in the configuration, whose broken entries are passed over", async () => {
    const chat_template = [
      { name: "default", template: "d" },
      { name: "rag", template: "r" },
      { name: "x" },
      { template: "y" },
      null,
    ];
    expect({ ...(await from("list", { "tokenizer_config.json": { chat_template } })) }).toEqual({ default: "d", rag: "r" });
  });

  it("come from chat_template.json, and rather from chat_template.jinja", async () => {
    const files = { "tokenizer_config.json": { chat_template: "config" }, "chat_template.json": { chat_template: "json" } };
    expect({ ...(await from("legacy", files)) }).toEqual({ default: "json" });
    expect({ ...(await from("file", { ...files, "chat_template.jinja": "jinja" })) }).toEqual({ default: "jinja" });
  });
});

describe("a tokenizer.json", () => {
  it.each([
    ["an added token without content", { added_tokens: [{ id: 9 }] }, "an added token lacks its content or id"],
    ["an added token without id", { added_tokens: [{ content: "x" }] }, "an added token lacks its content or id"],
    ["an id that is none", { model: { ...MODEL, vocab: { a: -1 } } }, 'the vocabulary gives "a" the id -1'],
    ["a far id", { model: { ...MODEL, vocab: { a: 2 ** 24 } } }, "the id 16777216"],
    ["a list for BPE's vocabulary", { model: { ...MODEL, type: "BPE", vocab: ["a"] } }, "the vocabulary of Unigram is a list"],
    ["a map for Unigram's", { model: { type: "Unigram", vocab: { a: 0 } } }, "the vocabulary of Unigram is a list"],
    ["an entry without a score", { model: { type: "Unigram", vocab: [["a", 0], ["b"]] } }, 'the vocabulary holds ["b"]'],
    ["pieces of length 0", { pre_tokenizer: { type: "FixedLength", length: 0 } }, "pieces of length 0"],
  ])("with %s is refused", async (_, parts, message) => {
    await expect(load("bad", { "tokenizer.json": { model: MODEL, ...parts } })).rejects.toMatchObject({
      code: "INVALID_FILE",
      message: expect.stringContaining(message),
    });
  });

  it("may leave the type of its model to its fields", () => {
    expect([{ merges: [] }, { vocab: [] }, { continuing_subword_prefix: "##" }, {}, 5].map(modelType)).toEqual([
      "BPE",
      "Unigram",
      "WordPiece",
      "WordLevel",
      undefined,
    ]);
  });

  it("of old form is named with its remedy, as is a folder without one", async () => {
    for (const file of ["tokenizer.model", "vocab.json"])
      await expect(load(`old ${file}`, { [file]: "{}" })).rejects.toMatchObject({
        code: "UNSUPPORTED",
        message: expect.stringContaining("an old tokenizer without tokenizer.json"),
      });
    await expect(load("empty", {})).rejects.toMatchObject({
      code: "NOT_FOUND",
      message: expect.stringContaining("has no tokenizer.json"),
    });
    await expect(AutoTokenizer.fromPretrained(join(folder, "nowhere"))).rejects.toMatchObject({
      code: "NOT_FOUND",
      message: expect.stringContaining("There is no folder"),
    });
    // What is there but cannot be read is no absent file.
    await mkdir(join(folder, "odd", "tokenizer.json"), { recursive: true });
    await expect(AutoTokenizer.fromPretrained(join(folder, "odd"))).rejects.toMatchObject({ code: "INVALID_FILE" });
  });

  it("that merges byte tokens under byte fallback is refused, in either form of its merges", async () => {
    for (const merges of [["<0xE4> <0xB8>"], [["<0xE4>", "<0xB8>"]]])
      await expect(
        load("bytes", { "tokenizer.json": { model: { ...MODEL, byte_fallback: true, merges } } }),
      ).rejects.toMatchObject({ code: "UNSUPPORTED", details: { part: "BPE", option: "merges" } });
  });
});

describe("texts of ids", () => {
  it("stand with spaces between them without a decoder, which clean-up takes from punctuation", async () => {
    const files = { "tokenizer.json": { model: MODEL }, "tokenizer_config.json": { clean_up_tokenization_spaces: true } };
    const tokenizer = await load("clean", files);
    expect(tokenizer.decode([0, 1])).toBe("a b");
    expect(tokenizer.decode([0, 2])).toBe("a.");
    expect([tokenizer.largestId, tokenizer.isSpecial(0), await tokenizer.save(tokenizer.folder)]).toEqual([
      5,
      false,
      ["tokenizer.json", "tokenizer_config.json"],
    ]);
  });

  it("make characters of byte tokens, and a mark of each byte that makes none", async () => {
    const decoder = { type: "Sequence", decoders: [{ type: "ByteFallback" }, { type: "Fuse" }] };
    const tokenizer = await load("fallback", { "tokenizer.json": { model: MODEL, decoder } });
    expect(tokenizer.decode([0, 3, 4, 5, 1])).toBe("a中b");
    expect(tokenizer.decode([3, 4, 0])).toBe("\uFFFD\uFFFDa");
  });

  it("take ▁ for the mark of Metaspace unless another is named", async () => {
    const model = { ...MODEL, vocab: { "▁a": 0, "▁b": 1, _b: 2 } };
    const marked = (decoder: object) =>
      load("metaspace", { "tokenizer.json": { model, decoder: { type: "Metaspace", ...decoder } } });
    expect((await marked({})).decode([0, 1])).toBe("a b");
    expect((await marked({ replacement: "_", prepend_scheme: "never" })).decode([2, 2])).toBe(" b b");
  });

  const times = (step: object, list: string) => ({ type: "Sequence", [list]: Array.from({ length: 40 }, () => step) });
  const doubled = { type: "Replace", pattern: { String: "a" }, content: "aa" };
  const A = { Sequence: { id: "A", type_id: 0 } };
  it.each([
    ["normalizer", times(doubled, "normalizers")],
    ["pre_tokenizer", times({ type: "ByteLevel", add_prefix_space: false, use_regex: false }, "pretokenizers")],
    ["post_processor", times({ type: "TemplateProcessing", single: [A, A], pair: [A], special_tokens: {} }, "processors")],
    ["decoder", times(doubled, "decoders")],
  ])("is refused where the steps of its %s double a text forty times", async (name, part) => {
    await expect(load("growing", { "tokenizer.json": { model: MODEL, [name]: part } })).rejects.toMatchObject({
      code: "INVALID_FILE",
      message: expect.stringContaining(`more than 64 times as long (${name})`),
    });
  });

  it("may make a text some times as long", async () => {
    const normalizer = { type: "Sequence", normalizers: [doubled, doubled, doubled] };
    expect((await load("longer", { "tokenizer.json": { model: MODEL, normalizer } })).encode("aa")).toHaveLength(16);
  });

  it("cannot be made into ids that the vocabulary lacks, where no token stands for the unknown", async () => {
    const model = {
      type: "WordPiece",
      vocab: { a: 0 },
      unk_token: "[UNK]",
      continuing_subword_prefix: "##",
      max_input_chars_per_word: 9,
    };
    const tokenizer = await load("no unk", { "tokenizer.json": { model } });
    expect(tokenizer.encode("a")).toEqual([0]);
    expect(() => tokenizer.encode("b")).toThrow(
      expect.objectContaining({ code: "INVALID_FILE", message: expect.stringContaining('no id for "[UNK]"') }),
    );
  });
});
