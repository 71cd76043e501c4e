/** Regular expressions of widespread tokenizers, which never backtrack far: texts are cut by them without a clock. */
const KNOWN: ReadonlySet<string> = new Set([
  // GPT-2
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
  // Llama 3
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
  // Qwen 2 and 3
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
]);

/**
 * Whether the time that a tokenizer.json takes for a text is known to be in proportion to it. Regular expressions of its own may
 * backtrack without end; WordPiece and FixedLength take lengths from the file.
 */
export function isTimely(json: Readonly<Record<string, unknown>>): boolean {
  const model = json.model as { type?: unknown } | null | undefined;
  return (model?.type === "BPE" || model?.type === "Unigram") && STEPS.every((step) => patternsAreKnown(json[step]));
}

const STEPS = ["normalizer", "pre_tokenizer", "post_processor", "decoder"];

function patternsAreKnown(part: unknown): boolean {
  if (typeof part !== "object" || part === null) return true;
  return Object.entries(part).every(([key, value]) =>
    key === "Regex" ? KNOWN.has(value as string) : value !== "FixedLength" && patternsAreKnown(value),
  );
}
