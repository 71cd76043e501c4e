import type { Tokenizer as Backend } from "@huggingface/tokenizers";
import { LowrankError } from "../errors.js";

/** The four parts of a tokenizer.json that change texts: the method that does it, and where a Sequence keeps its own parts. */
const PARTS = {
  normalizer: ["normalize", "normalizers"],
  pre_tokenizer: ["pre_tokenize", "tokenizers"],
  post_processor: ["post_process", "processors"],
  decoder: ["decode_chain", "decoders"],
} as const;
/** Known tokenizers make at most 18 characters of one (NFKC), and add a few. */
const TIMES = 64;
const MORE = 4096;

type Made = string | readonly string[] | { tokens: readonly string[] };
type Step = Record<string, unknown>;

/**
 * Steps that double a text, one after the other, never come to an end: with this, whichever passes 64 times the size of what its part was
 * given throws INVALID_FILE.
 *
 * @param folder of tokenizer.json, for the error
 */
export function limitGrowth(backend: Backend, folder: string): void {
  for (const [name, [method, list]] of Object.entries(PARTS)) {
    const part = backend[name as keyof typeof PARTS] as unknown as Step | null | undefined;
    if (!part) continue;
    let limit = Number.POSITIVE_INFINITY;
    const guard = (step: Step) => {
      const run = (step[method] as (...args: unknown[]) => Made).bind(step);
      step[method] = (...args: unknown[]) => {
        const made = run(...args);
        if (sizeOf(made) > limit)
          throw new LowrankError(
            "INVALID_FILE",
            `The tokenizer in ${folder} makes a text more than ${TIMES} times as long (${name})`,
            {
              hint: "Its tokenizer.json is damaged: take the file from the model's own page.",
              details: { folder, part: name },
            },
          );
        return made;
      };
      for (const inner of (step[list] ?? []) as (Step | null)[]) if (inner) guard(inner);
    };
    guard(part);
    const run = part[method] as (...args: unknown[]) => Made;
    part[method] = (...args: [Made, ...unknown[]]) => {
      limit = MORE + TIMES * sizeOf(args[0]);
      return run(...args);
    };
  }
}

function sizeOf(made: Made): number {
  if (typeof made === "string") return made.length;
  const pieces = "tokens" in made ? made.tokens : made;
  return pieces.reduce((sum, piece) => sum + piece.length + 1, 0);
}
