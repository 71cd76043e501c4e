import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { AddedTokenSplitter } from "../../src/text/added-tokens.js";
import { AutoTokenizer, type Tokenizer } from "../../src/text/tokenizer.js";
import { BOS, byteTokenizer, END } from "./byte-tokenizer.js";

const token = (content: string, flags: object = {}) => ({
  id: 1,
  content,
  singleWord: false,
  lstrip: false,
  rstrip: false,
  normalized: false,
  special: true,
  ...flags,
});

describe("added tokens", () => {
  const cut = (text: string, ...tokens: ReturnType<typeof token>[]) =>
    new AddedTokenSplitter(tokens.map((t) => [t.content, t]))
      .split(text)
      .map((p) => [text.slice(p.start, p.end), p.token !== undefined]);

  it("takes the longest of those that start at the leftmost place", () => {
    expect(cut("x<ab><abc>", token("<ab"), token("<abc>"), token("<ab>"))).toEqual([
      ["x", false],
      ["<ab>", true],
      ["<abc>", true],
    ]);
  });

  it("matches single words only between word borders", () => {
    const word = token("cat", { singleWord: true });
    expect(cut("cat concat cats (cat) écat", word).filter((p) => p[1])).toHaveLength(2);
    for (const text of ["cat\u0301", "cat\u200d", "\u200dcat"]) expect(cut(text, word).some((p) => p[1])).toBe(false);
  });

  it("swallows white space where the token says so", () => {
    expect(cut("a  <m> \nb", token("<m>", { lstrip: true, rstrip: true }))).toEqual([
      ["a", false],
      ["  <m> \n", true],
      ["b", false],
    ]);
  });
});

describe("a byte tokenizer", () => {
  let folder: string;
  let tok: Tokenizer;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "tokenizer-"));
    tok = await byteTokenizer(folder, { template: "from config" });
    await writeFile(join(folder, "chat_template.jinja"), "from file");
    tok = await AutoTokenizer.fromPretrained(folder);
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("encodes UTF-8 bytes, decodes them, and keeps U+FEFF", () => {
    const text = "\uFEFFhé 😀<end>中";
    const bytes = [...Buffer.from("\uFEFFhé 😀"), END, ...Buffer.from("中")];
    expect(tok.encode(text)).toEqual(bytes);
    expect(tok.decode(bytes)).toBe(text);
    expect(tok.decode(bytes, { skipSpecialTokens: true })).toBe(text.replace("<end>", ""));
    expect(tok.decode([])).toBe("");
    expect([tok.vocabSize, tok.eosId, tok.bosId, tok.padId]).toEqual([258, END, BOS, undefined]);
  });

  it("takes U+FEFF for no white space, as the Rust library does", async () => {
    const merging = await byteTokenizer(join(folder, "merging"), { merges: [["\u010a", "\u010a"]] });
    expect(merging.encode("\n\n")).toEqual([258]);
    expect(merging.encode("\n\n\ufeff")).toEqual([10, 10, 0xef, 0xbb, 0xbf]);
  });

  it("tells which characters each token covers", () => {
    const { ids, offsets } = tok.encodeWithOffsets("a é😀<end>b");
    expect(ids).toEqual(tok.encode("a é😀<end>b"));
    expect(offsets).toEqual([
      [0, 1],
      [1, 2],
      [2, 3],
      [2, 3],
      [3, 5],
      [3, 5],
      [3, 5],
      [3, 5],
      [5, 10],
      [10, 11],
    ]);
  });

  it("streams whole characters and gives out invalid bytes in the end", () => {
    const stream = tok.stream();
    const out = [...Buffer.from("é😀!")].map((id) => stream.push(id));
    expect(out).toEqual(["", "é", "", "", "", "😀", "!"]);
    expect([stream.push(0xff), stream.push(65), stream.push(0xe4)]).toEqual(["", "\uFFFDA", ""]);
    expect(stream.flush()).toBe("\uFFFD");
    const endless = tok.stream();
    expect(Array.from({ length: 40 }, () => endless.push(0xff)).join("").length).toBe(32);
  });

  it("finds the chat template and saves its files unchanged", async () => {
    expect(tok.chatTemplate).toBe("from file");
    const out = join(folder, "copy");
    expect(await tok.save(out)).toEqual(["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]);
    expect(await readFile(join(out, "tokenizer.json"))).toEqual(await readFile(join(folder, "tokenizer.json")));
  });

  it("refuses what is not a tokenizer with the file's name", async () => {
    const bad = join(folder, "bad");
    await mkdir(bad);
    for (const [text, code] of [
      ["{", "INVALID_FILE"],
      ["[]", "INVALID_FILE"],
      ["{}", "INVALID_FILE"],
      ['{"model":{"type":"X"}}', "UNSUPPORTED"],
      ['{"model":{"type":"BPE","vocab":"link","merges":[]}}', "INVALID_FILE"],
      ['{"model":{"type":"BPE","merges":[]}}', "INVALID_FILE"],
      ['{"model":{"type":"BPE","vocab":{"a":"0"},"merges":[]}}', "INVALID_FILE"],
    ]) {
      await writeFile(join(bad, "tokenizer.json"), text!);
      await expect(AutoTokenizer.fromPretrained(bad)).rejects.toMatchObject({
        code,
        message: expect.stringContaining("tokenizer.json"),
      });
    }
    await expect(AutoTokenizer.fromPretrained(join(folder, "nowhere"))).rejects.toMatchObject({ code: "NOT_FOUND" });
  });
});

describe.each(["tokenizer_bytelevel", "tokenizer_sentencepiece"])("offsets of %s", (name) => {
  it("cover every golden text without gaps, with the same ids", async () => {
    const dir = `test/golden/cases/text/${name}`;
    const spec = JSON.parse(await readFile(`${dir}/case.json`, "utf8"));
    const tok = await AutoTokenizer.fromPretrained(join(dir, spec.tokenizer));
    for (const { text, idsNoSpecial } of spec.strings) {
      const { ids, offsets } = tok.encodeWithOffsets(text);
      expect(ids).toEqual(idsNoSpecial);
      let covered = 0;
      for (const [start, end] of offsets) {
        expect(start).toBeLessThanOrEqual(covered);
        covered = Math.max(covered, end);
      }
      expect(covered).toBe(text.length);
    }
  });
});

const real = "../shared/models/smollm2-135m-instruct-nf4";
describe.runIf(existsSync(real))("SmolLM2's tokenizer", () => {
  it("loads and cuts chat marks out", async () => {
    const tok = await AutoTokenizer.fromPretrained(real);
    expect(tok.vocabSize).toBe(49152);
    expect(tok.encode("<|im_start|>user\n")).toEqual([1, 4093, 198]);
    expect(tok.chatTemplate).toContain("<|im_start|>");
  });
});
