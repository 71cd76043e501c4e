import type { Tokenizer } from "@huggingface/tokenizers";

type Model = NonNullable<Tokenizer["model"]>;

/**
 * Without an unknown token the Rust library passes over characters that the vocabulary lacks before it merges: their
 * neighbours meet (SmolLM2's vocabulary lacks 21 of the 256 bytes).
 */
export function mendModel(model: Model): void {
  const part = model as Model & { bpe?: (token: string) => string[]; byte_fallback?: boolean };
  const merge = part.bpe?.bind(model);
  if (!merge || part.unk_token != null || part.byte_fallback) return;
  part.bpe = (token: string) => merge(Array.from(token, (char) => (model.tokens_to_ids.has(char) ? char : "")).join(""));
}
