import type { HistoryRow } from "./history.js";

/** What a bench measures, by the kind of its rows; `spread` names the fields between which eight of ten repeats lay. */
const MEASURED: Record<string, readonly { value: string; better: "less" | "more"; spread?: readonly [string, string] }[]> = {
  peaks: [
    { value: "f32_gflops", better: "more" },
    { value: "bf16_gflops", better: "more" },
    { value: "memory_gb_s", better: "more" },
  ],
  overhead: [
    { value: "us", better: "less" },
    { value: "taped_us", better: "less" },
  ],
  op: [{ value: "median_ms", better: "less", spread: ["p10_ms", "p90_ms"] }],
  step: [
    { value: "seconds", better: "less", spread: ["p10", "p90"] },
    { value: "peak_rss_mib", better: "less" },
  ],
  generate: [
    { value: "prompt_tok_s", better: "more" },
    { value: "decode_tok_s", better: "more" },
    { value: "decode_cpu_ms", better: "less" },
    { value: "first_token_s", better: "less" },
    { value: "cold_first_token_s", better: "less" },
  ],
  adapters: [
    { value: "register_ms", better: "less" },
    { value: "register_cpu_ms", better: "less" },
    { value: "switch_us", better: "less" },
    { value: "bytes_per_adapter", better: "less" },
  ],
};
/** Fields that tell one case of a kind from another. */
const CASE = ["device", "op", "dtype", "isa", "threads", "m", "n", "k", "command", "machine", "cores"];
/** A change below this share is called noise whatever the spread says. */
const LEAST = 0.03;

export interface Change {
  what: string;
  metric: string;
  from: number;
  to: number;
  /** How many times as good as before. */
  gain: number;
  verdict: "better" | "worse" | "noise" | "measured once";
}

interface Measured {
  middle: number;
  low: number;
  high: number;
  repeated: boolean;
}

/**
 * What changed between the rows of two commits, for each case that both measured on the same machine. A change counts where the two
 * ranges do not touch: from the lowest to the highest row of a commit, the rows' own spread included. One row without a spread has no
 * range, so nothing is concluded from it.
 */
export function compare(rows: readonly HistoryRow[], from: string, to: string): Change[] {
  const before = byCase(rows, from);
  return [...byCase(rows, to)].flatMap(([what, after]) => {
    const earlier = before.get(what);
    return (MEASURED[after[0]!.kind] ?? []).flatMap((metric): Change[] => {
      const [a, b] = [earlier && measured(earlier, metric), measured(after, metric)];
      if (!a || !b) return [];
      const gain = metric.better === "less" ? a.middle / b.middle : b.middle / a.middle;
      const apart = a.high < b.low || b.high < a.low;
      const verdict = !(a.repeated && b.repeated)
        ? "measured once"
        : !apart || Math.abs(gain - 1) < LEAST
          ? "noise"
          : gain > 1
            ? "better"
            : "worse";
      return [{ what, metric: metric.value, from: a.middle, to: b.middle, gain, verdict }];
    });
  });
}

/** Commits on record, in the order in which they were first measured. */
export const commitsOf = (rows: readonly HistoryRow[]): string[] => [
  ...new Set([...rows].sort((a, b) => a.when.localeCompare(b.when)).map((row) => row.commit)),
];

function byCase(rows: readonly HistoryRow[], commit: string): Map<string, HistoryRow[]> {
  const cases = new Map<string, HistoryRow[]>();
  for (const row of rows)
    if (row.commit === commit) {
      const name = [row.kind, ...CASE.filter((field) => row[field] !== undefined).map((field) => `${field}=${row[field]}`)].join(
        " ",
      );
      cases.set(name, [...(cases.get(name) ?? []), row]);
    }
  return cases;
}

function measured(
  rows: readonly HistoryRow[],
  { value, spread }: { value: string; spread?: readonly [string, string] },
): Measured | undefined {
  const numbers = (field: string) => rows.map((row) => row[field]).filter((v): v is number => typeof v === "number");
  const values = numbers(value).sort((a, b) => a - b);
  if (values.length === 0) return undefined;
  const all = [...values, ...(spread ?? []).flatMap(numbers)];
  return {
    middle: (values[(values.length - 1) >> 1]! + values[values.length >> 1]!) / 2,
    low: Math.min(...all),
    high: Math.max(...all),
    repeated: all.length > 1,
  };
}
