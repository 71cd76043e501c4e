/** Keys of tokenizer_config.json that say again what tokenizer.json says. Where the two differ, tokenizer.json counts. */
import { isDeepStrictEqual } from "node:util";
import type { Keys } from "../notes.js";
import type { AddedToken } from "./added-tokens.js";
import { addedToken, tokenText } from "./tokenizer-files.js";

/** What tokenizer.json makes of texts. */
export interface TokenizerFacts {
  added: readonly AddedToken[];
  bos: string | undefined;
  eos: string | undefined;
  /** Tokens that the post-processor makes of an empty text. */
  around: readonly string[];
  /** The text "a" begins with a space. */
  prefixed: boolean;
}

/** Reads those keys that agree with tokenizer.json; the others stay unread, since they have no effect. */
export function readRepeats(config: Keys, { added, bos, eos, around, prefixed }: TokenizerFacts): void {
  const special = new Set(added.filter((token) => token.special).map(({ content }) => content));
  const isSpecial = (value: unknown) => special.has(tokenText(value) ?? "");
  const areSpecial = (value: unknown) => typeof value === "object" && value !== null && Object.values(value).every(isSpecial);
  const byId = new Map(added.map((token) => [String(token.id), token]));
  const agrees: Record<string, (value: unknown) => boolean> = {
    add_bos_token: (value) => value === (bos !== undefined && around[0] === bos),
    add_eos_token: (value) => value === (eos !== undefined && around.at(-1) === eos),
    add_prefix_space: (value) => value === prefixed,
    added_tokens_decoder: (value) =>
      typeof value === "object" &&
      value !== null &&
      Object.entries(value).every(([id, token]) => isSame(id, token, byId.get(id))),
    additional_special_tokens: areSpecial,
    extra_special_tokens: areSpecial,
    cls_token: isSpecial,
    mask_token: isSpecial,
    sep_token: isSpecial,
  };
  for (const [key, agree] of Object.entries(agrees)) if (agree(config.json[key])) config.read(key);
}

function isSame(id: string, token: unknown, known: AddedToken | undefined): boolean {
  if (typeof token !== "object" || tokenText(token) === undefined || known === undefined) return false;
  return isDeepStrictEqual(addedToken({ ...token, id: Number(id) }), known);
}
