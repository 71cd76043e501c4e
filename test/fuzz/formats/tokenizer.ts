import { AutoTokenizer } from "../../../src/text/tokenizer.js";
import { filesOf } from "../files.js";
import { type Format, noteTaker } from "../format.js";
import { tokenizerFiles } from "../tiny.js";

const SPLIT = {
  type: "Sequence",
  pretokenizers: [
    { type: "Split", pattern: { Regex: "\\w+|[^\\w\\s]+" }, behavior: "Isolated", invert: false },
    { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false },
  ],
};
const plain = tokenizerFiles("bytelevel");
const split = { ...plain, "tokenizer.json": { ...JSON.parse(plain["tokenizer.json"]!.toString()), pre_tokenizer: SPLIT } };
/** The last one makes most patterns that backtrack do so. */
const TEXTS = ["", "Hello, world! 12345", "é\u{1F600}\ufeff  \n\t x", "a".repeat(60), `${"a ".repeat(200)}!`];

export const format: Format = {
  name: "tokenizer",
  seeds: [filesOf(plain), filesOf(tokenizerFiles("sentencepiece")), filesOf(split)],
  targets: ["tokenizer.json", "tokenizer.json", "tokenizer_config.json"],
  async open(folder) {
    const tokenizer = await AutoTokenizer.fromPretrained(folder, { onNote: noteTaker() });
    for (const text of TEXTS) {
      const ids = tokenizer.encode(text);
      if (!ids.every((id) => Number.isInteger(id) && id >= 0))
        throw new Error(`ids of ${JSON.stringify(text)}: ${ids.slice(0, 20)}`);
      if (typeof tokenizer.decode(ids) !== "string") throw new Error("decode gave no text");
    }
  },
};
