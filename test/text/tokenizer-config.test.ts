import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { AutoTokenizer } from "../../src/text/tokenizer.js";
import { tempFolder } from "../io/files.js";
import { byteTokenizer } from "./byte-tokenizer.js";

describe("keys without effect are named", () => {
  it("what tokenizer_config.json says otherwise than tokenizer.json, which counts", async () => {
    const folder = tempFolder();
    const bos = { content: "<s>", lstrip: false, normalized: false, rstrip: false, single_word: false, special: true };
    const agreed = {
      bos_token: "<s>",
      eos_token: "<end>",
      add_bos_token: true,
      add_eos_token: false,
      add_prefix_space: false,
      added_tokens_decoder: { 256: bos },
      additional_special_tokens: ["<end>"],
      extra_special_tokens: { start: "<s>" },
      sep_token: { content: "<end>" },
    };
    const contrary = {
      add_bos_token: false,
      add_eos_token: true,
      add_prefix_space: true,
      added_tokens_decoder: { 256: { ...bos, lstrip: true } },
      additional_special_tokens: ["<other>"],
      extra_special_tokens: { start: 5 },
      sep_token: "a",
    };
    await byteTokenizer(folder, { bos: true });
    const unread = async (config: object) => {
      writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify(config));
      const notes: string[] = [];
      await AutoTokenizer.fromPretrained(folder, { onNote: (note) => void notes.push(note) });
      return notes.flatMap((note) => note.split(": ")[1]!.split(", ")).sort();
    };
    expect(await unread(agreed)).toEqual([]);
    expect(await unread({ ...agreed, ...contrary, split_special_tokens: true })).toEqual(
      [...Object.keys(contrary), "split_special_tokens"].sort(),
    );
    // Without a begin token none is added, whatever comes first.
    expect(await unread({ add_bos_token: false, add_eos_token: false })).toEqual([]);
    for (const added_tokens_decoder of [5, { 256: 5 }, { 256: {} }, { 256: null }, { 9: bos }, { 257: bos }])
      expect(await unread({ added_tokens_decoder })).toEqual(["added_tokens_decoder"]);
    expect(await unread({ extra_special_tokens: 5, sep_token: 5 })).toEqual(["extra_special_tokens", "sep_token"]);
  });
});
