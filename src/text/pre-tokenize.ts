import type { Tokenizer } from "@huggingface/tokenizers";
import { type Behavior, splitText } from "./split.js";

type PreTokenizer = NonNullable<Tokenizer["pre_tokenizer"]>;
type Cut = (text: string, options?: { section_index?: number }) => string[];

// GPT-2's pattern with Unicode's white space: JavaScript's \s has U+FEFF, which is none, and lacks U+0085.
const BYTE_LEVEL =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;
const SPACE = /\p{White_Space}/gu;
const NUMBER = /\p{N}/gu;
const PUNCTUATION = /[\p{P}!-/:-@[-`{-~]/gu;
const WORD_OR_MARKS =
  /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]+|[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}\p{White_Space}]+/gu;

/** How the Rust library cuts, where the JavaScript one differs. `config` is the part's entry in tokenizer.json. */
const CUTS: Readonly<Record<string, (config: Record<string, unknown>, pattern: RegExp) => Cut>> = {
  Split: (config, pattern) => (text) => splitText(text, pattern, config.behavior as Behavior, config.invert === true),
  Punctuation: (config) => (text) => splitText(text, PUNCTUATION, (config.behavior ?? "Isolated") as Behavior),
  Digits: (config) => (text) => splitText(text, NUMBER, config.individual_digits === true ? "Isolated" : "Contiguous"),
  Whitespace: () => (text) => splitText(text, WORD_OR_MARKS, "Removed", true),
  WhitespaceSplit: () => (text) => splitText(text, SPACE, "Removed"),
  BertPreTokenizer: () => (text) => splitText(text, SPACE, "Removed").flatMap((word) => splitText(word, PUNCTUATION, "Isolated")),
  FixedLength: (config) => (text) => splitText(text, new RegExp(`.{1,${config.length}}`, "gsu"), "Isolated"),
  Metaspace: (config) => {
    const mark = (config.replacement ?? "▁") as string;
    const marks = new RegExp(mark.replace(/[\\^$.*+?()[\]{}|/]/g, "\\$&"), "gu");
    const scheme = config.prepend_scheme ?? "always";
    return (text, options) => {
      const marked = text.replaceAll(" ", () => mark);
      const prepend = scheme === "always" || (scheme === "first" && options?.section_index === 0);
      const whole = prepend && !marked.startsWith(mark) ? mark + marked : marked;
      return config.split === false ? [whole] : splitText(whole, marks, "MergedWithNext");
    };
  },
};

/** Makes a pre-tokenizer cut as the Rust library does. `config` is its entry in tokenizer.json. */
export function mendPreTokenizer(pre: PreTokenizer, config: Record<string, unknown>): void {
  const part = pre as PreTokenizer & { pattern?: RegExp; tokenizers?: PreTokenizer[]; pre_tokenize_text: Cut };
  if (config.type === "ByteLevel") part.pattern = BYTE_LEVEL;
  const cut = CUTS[config.type as string];
  if (cut) part.pre_tokenize_text = cut(config, part.pattern as RegExp);
  const inner = config.pretokenizers as Record<string, unknown>[] | undefined;
  for (const [i, child] of (part.tokenizers ?? []).entries()) mendPreTokenizer(child, inner?.[i] as Record<string, unknown>);
}
