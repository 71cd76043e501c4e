/** Longer words are no misspelling of anything, and comparing them takes the square of their length. */
const LONGEST = 64;

/** The candidates closest to a misspelt word, for "did you mean" in errors: all that are equally close. Empty when none is close, or the word is one of them. */
export function nearest(word: string, candidates: Iterable<string>, count = 3): string[] {
  const distinct = new Set(candidates);
  if (word.length > LONGEST || distinct.has(word)) return [];
  const limit = Math.max(1, Math.floor(word.length / 3));
  const measured = [...distinct].map((candidate) => ({
    candidate,
    distance: editDistance(word.toLowerCase(), candidate.toLowerCase(), limit),
  }));
  const best = Math.min(limit, ...measured.map(({ distance }) => distance));
  return measured
    .filter(({ distance }) => distance === best)
    .map(({ candidate }) => candidate)
    .sort()
    .slice(0, count);
}

/** "; did you mean 'a' or 'b'?", or nothing. */
export function didYouMean(word: string, candidates: Iterable<string>): string {
  const found = nearest(word, candidates);
  return found.length === 0 ? "" : `; did you mean ${found.map((name) => `'${name}'`).join(" or ")}?`;
}

/** Optimal string alignment distance (insert, delete, replace, swap neighbours); above `limit` any larger number. */
function editDistance(a: string, b: string, limit: number): number {
  if (Math.abs(a.length - b.length) > limit) return limit + 1;
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + cost);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) best = Math.min(best, before[j - 2]! + 1);
      next.push(best);
    }
    before = row;
    row = next;
  }
  return row[b.length]!;
}
