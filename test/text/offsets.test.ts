import { describe, expect, it } from "vitest";
import { tokenOffsets } from "../../src/text/offsets.js";

const same = (text: string) => text;
const nfc = (text: string) => text.normalize("NFC");

describe("offsets of tokens that are pieces of the text", () => {
  it("follow spaces made ▁ and a prefix", () => {
    expect(tokenOffsets("a b", "▁a▁b", ["▁a", "▁", "b"], false, same)).toEqual([
      [0, 1],
      [1, 2],
      [2, 3],
    ]);
  });

  it("follow composed characters", () => {
    expect(tokenOffsets("e\u0301x", "éx", ["é", "x"], false, nfc)).toEqual([
      [0, 2],
      [2, 3],
    ]);
  });

  it("give each byte of a character the whole of it", () => {
    expect(tokenOffsets("a😀", "a😀", ["a", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"], false, same)).toEqual([
      [0, 1],
      [1, 3],
      [1, 3],
      [1, 3],
      [1, 3],
    ]);
  });

  it.each([
    ["a token that is neither a piece of the text nor a byte", "ab", "ab", ["a", "?"]],
    ["a byte behind the end", "a", "a", ["a", "<0x41>"]],
    ["tokens that end before the text", "ab", "ab", ["a"]],
    ["a text that was rewritten", "ab", "xyz", ["xyz"]],
    ["an empty token", "a", "a", ["", "a"]],
  ])("are unknown for %s", (_, raw, changed, tokens) => {
    expect(tokenOffsets(raw, changed, tokens, false, same)).toBeUndefined();
  });
});

describe("offsets of byte-level tokens", () => {
  it("leave out a prefix space, and cover whole characters", () => {
    expect(tokenOffsets("é", "é", ["Ġ", "Ã", "©"], true, same)).toEqual([
      [0, 0],
      [0, 1],
      [0, 1],
    ]);
    expect(tokenOffsets("😀", "😀", ["ðŁ", "ĺĢ"], true, same)).toEqual([
      [0, 2],
      [0, 2],
    ]);
  });

  it("are empty for a token without bytes", () => {
    expect(tokenOffsets("a", "a", ["", "a"], true, same)).toEqual([
      [0, 0],
      [0, 1],
    ]);
    expect(tokenOffsets("", "", [""], true, same)).toEqual([[0, 0]]);
  });

  it("are unknown where bytes are missing, or characters stand outside the table", () => {
    expect(tokenOffsets("ab", "ab", ["a"], true, same)).toBeUndefined();
    expect(tokenOffsets("中", "中", ["中"], true, same)).toEqual([[0, 1]]);
    expect(tokenOffsets("ab", "AB", ["A", "B"], true, same)).toBeUndefined();
  });
});
