/** How many examples have a length in [from, to). */
export interface LengthBin {
  from: number;
  to: number;
  count: number;
}

const MOST_BINS = 12;

/** Lengths in at most 12 bins, whose width is 1, 2 or 5 times a power of ten. */
export function lengthBins(lengths: readonly number[]): LengthBin[] {
  const longest = lengths.reduce((most, length) => Math.max(most, length), 0);
  let width = 1;
  for (let i = 0; Math.floor(longest / width) >= MOST_BINS; i++) width *= i % 3 === 1 ? 2.5 : 2;
  const bins = Array.from({ length: lengths.length === 0 ? 0 : Math.floor(longest / width) + 1 }, (_, i) => ({
    from: i * width,
    to: (i + 1) * width,
    count: 0,
  }));
  for (const length of lengths) bins[Math.floor(length / width)]!.count++;
  return bins;
}
