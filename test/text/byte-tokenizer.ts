import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { AutoTokenizer, type Tokenizer } from "../../src/text/tokenizer.js";

/** Added tokens of the byte tokenizer: <s> is 256, <end> 257. */
export const BOS = 256;
export const END = 257;

/**
 * A byte-level tokenizer without merges: every byte is a token, so expected ids follow from UTF-8 alone.
 * `merges` adds tokens of two characters, which may span borders. With `bos` the post-processor puts <s> in front.
 */
export async function byteTokenizer(
  folder: string,
  options: { merges?: [string, string][]; bos?: boolean; template?: string; normalizer?: object } = {},
): Promise<Tokenizer> {
  const chars: string[] = [];
  let next = 256;
  for (let b = 0; b < 256; b++) {
    chars.push(String.fromCharCode((b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174 ? b : next++));
  }
  const vocab = Object.fromEntries(chars.map((c, i) => [c, i]));
  const merges = options.merges ?? [];
  for (const [i, pair] of merges.entries()) vocab[pair.join("")] = 258 + i;
  const json = {
    model: { type: "BPE", vocab, merges, unk_token: null },
    normalizer: options.normalizer ?? null,
    pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
    decoder: { type: "ByteLevel" },
    post_processor: options.bos
      ? {
          type: "TemplateProcessing",
          single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
          pair: [],
          special_tokens: {},
        }
      : null,
    added_tokens: ["<s>", "<end>"].map((content, i) => ({ id: BOS + i, content, special: true })),
  };
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json));
  const config = {
    bos_token: "<s>",
    eos_token: { content: "<end>" },
    ...(options.template ? { chat_template: options.template } : {}),
  };
  await writeFile(join(folder, "tokenizer_config.json"), JSON.stringify(config));
  return AutoTokenizer.fromPretrained(folder);
}
