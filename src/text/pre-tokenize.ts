import type { Tokenizer } from "@huggingface/tokenizers";

type PreTokenizer = NonNullable<Tokenizer["pre_tokenizer"]>;

// GPT-2's pattern with Unicode's white space: JavaScript's \s has U+FEFF, which is none, and lacks U+0085.
const BYTE_LEVEL =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** Gives byte-level pre-tokenizers the pattern that the Rust library has. */
export function mendPreTokenizer(pre: PreTokenizer): void {
  const parts = pre as PreTokenizer & { pattern?: RegExp; tokenizers?: PreTokenizer[]; config?: { type?: string } };
  if (parts.config?.type === "ByteLevel") parts.pattern = BYTE_LEVEL;
  for (const part of parts.tokenizers ?? []) mendPreTokenizer(part);
}
