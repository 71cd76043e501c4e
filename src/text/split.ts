export const BEHAVIORS = ["Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext"] as const;

/** What becomes of the matches of a `Split` pattern; names of tokenizer.json. */
export type Behavior = (typeof BEHAVIORS)[number];

interface Piece {
  start: number;
  end: number;
  readonly match: boolean;
}

/** Cuts a text at the matches of a global pattern, as the Rust library's `NormalizedString::split` does. */
export function splitText(text: string, pattern: RegExp, behavior: Behavior, invert = false): string[] {
  let pieces = matches(text, pattern, invert);
  if (behavior === "Removed") pieces = pieces.filter((p) => !p.match);
  if (behavior === "Contiguous") pieces = merge(pieces, (p, before) => p.match === (before?.match ?? false), "end");
  if (behavior === "MergedWithPrevious") pieces = merge(pieces, (p, before) => p.match && !before?.match, "end");
  if (behavior === "MergedWithNext") {
    pieces = merge(pieces.reverse(), (p, before) => p.match && !before?.match, "start").reverse();
  }
  return pieces.filter((p) => p.start < p.end).map((p) => text.slice(p.start, p.end));
}

/** Matches and what lies between them. */
function matches(text: string, pattern: RegExp, invert: boolean): Piece[] {
  const pieces: Piece[] = [];
  let done = 0;
  for (const found of text.matchAll(pattern)) {
    const start = found.index;
    const end = start + found[0].length;
    // Oniguruma finds no empty match right behind another one.
    if (start === end && start === done && done > 0) continue;
    if (done < start) pieces.push({ start: done, end: start, match: invert });
    pieces.push({ start, end, match: !invert });
    done = end;
  }
  if (done < text.length) pieces.push({ start: done, end: text.length, match: invert });
  return pieces;
}

/** Joins each piece that `joins` says so to the piece before it, which then reaches to the new `edge`. */
function merge(pieces: Piece[], joins: (piece: Piece, before: Piece | undefined) => boolean, edge: "start" | "end"): Piece[] {
  const merged: Piece[] = [];
  for (const [i, piece] of pieces.entries()) {
    const last = merged.at(-1);
    if (last && joins(piece, pieces[i - 1])) last[edge] = piece[edge];
    else merged.push({ ...piece });
  }
  return merged;
}
