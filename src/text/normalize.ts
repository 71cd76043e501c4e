import type { Tokenizer } from "@huggingface/tokenizers";

type Normalizer = NonNullable<Tokenizer["normalizer"]>;

const LEADING = /^\p{White_Space}+/u;
const TRAILING = /\p{White_Space}+$/u;

/** How the Rust library normalizes, where the JavaScript one differs. */
const STEPS: Readonly<Record<string, (config: Record<string, unknown>, pattern: RegExp) => (text: string) => string>> = {
  // Letter by letter: a sigma at the end of a word stays σ.
  Lowercase: () => (text) => Array.from(text, (char) => char.toLowerCase()).join(""),
  Strip: (config) => (text) => {
    const left = config.strip_left === true ? text.replace(LEADING, "") : text;
    return config.strip_right === true ? left.replace(TRAILING, "") : left;
  },
  Prepend: (config) => (text) => (text === "" ? "" : `${config.prepend}${text}`),
  // A function, for JavaScript gives `$` in a replacement a meaning.
  Replace: (config, pattern) => (text) => text.replaceAll(pattern, () => config.content as string),
};

/** Makes a normalizer change texts as the Rust library does. `config` is its entry in tokenizer.json. */
export function mendNormalizer(normalizer: Normalizer, config: Record<string, unknown>): void {
  const part = normalizer as Normalizer & { pattern?: RegExp; normalizers?: Normalizer[] };
  const step = STEPS[config.type as string];
  if (step) part.normalize = step(config, part.pattern as RegExp);
  const inner = config.normalizers as Record<string, unknown>[] | undefined;
  for (const [i, child] of (part.normalizers ?? []).entries()) mendNormalizer(child, inner?.[i] as Record<string, unknown>);
}
