/** Median and the tenth and ninetieth percentile (nearest rank) of some times. */
export function quantiles(values: readonly number[]): { median: number; p10: number; p90: number } {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) => sorted[Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1))]!;
  const middle = sorted.length >> 1;
  const median = sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, p10: at(0.1), p90: at(0.9) };
}

/** Rounded to `digits` significant digits: nobody reads more of a measured time. */
export const rounded = (value: number, digits = 4): number => Number(value.toPrecision(digits));
