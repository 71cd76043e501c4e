/** An entry of `added_tokens` in tokenizer.json. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** Match only where no word character touches either side. */
  readonly singleWord: boolean;
  /** Swallow white space on the left of the match. */
  readonly lstrip: boolean;
  /** Swallow white space on the right of the match. */
  readonly rstrip: boolean;
  /** Matched in the normalized text instead of the raw one. */
  readonly normalized: boolean;
  readonly special: boolean;
}

/** A piece of text between added tokens (`token` absent), or an added token with the range it covers. */
export interface AddedTokenPiece {
  readonly start: number;
  readonly end: number;
  readonly token?: AddedToken;
}

const WORD_END = /[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]$/u;
const WORD_START = /^[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]/u;
const SPACE = /^\p{White_Space}$/u;

/** Cuts added tokens out of a text: leftmost match, longest first, as the Rust library `tokenizers` does. */
export class AddedTokenSplitter {
  private readonly byFirst = new Map<string, [string, AddedToken][]>();

  /** @param patterns pairs of the text to look for and its token; empty texts never match */
  constructor(patterns: Iterable<[string, AddedToken]>) {
    for (const [pattern, token] of patterns) {
      if (pattern === "") continue;
      const first = pattern[0] as string;
      const list = this.byFirst.get(first);
      if (list) list.push([pattern, token]);
      else this.byFirst.set(first, [[pattern, token]]);
    }
    for (const list of this.byFirst.values()) list.sort((a, b) => b[0].length - a[0].length);
  }

  split(text: string): AddedTokenPiece[] {
    const pieces: AddedTokenPiece[] = [];
    let done = 0;
    let at = 0;
    while (at < text.length) {
      const found = this.byFirst.get(text[at] as string)?.find(([pattern]) => text.startsWith(pattern, at));
      if (!found) {
        at++;
        continue;
      }
      const [pattern, token] = found;
      let start = at;
      let end = at + pattern.length;
      at = end;
      if (token.singleWord && (touchesWordBefore(text, start) || touchesWordAfter(text, end))) continue;
      if (token.lstrip) while (start > done && SPACE.test(text[start - 1] as string)) start--;
      if (token.rstrip) while (end < text.length && SPACE.test(text[end] as string)) end++;
      if (done < start) pieces.push({ start: done, end: start });
      pieces.push({ start, end, token });
      done = end;
      at = end;
    }
    if (done < text.length) pieces.push({ start: done, end: text.length });
    return pieces;
  }
}

// Two UTF-16 units hold any character that could touch.
const touchesWordBefore = (text: string, start: number) => start > 0 && WORD_END.test(text.slice(Math.max(0, start - 2), start));
const touchesWordAfter = (text: string, end: number) => end < text.length && WORD_START.test(text.slice(end, end + 2));
