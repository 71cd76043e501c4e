import type { HistoryRow } from "./history.js";

interface Metric {
  value: string;
  better: "less" | "more";
  /** Between which values eight of ten repeats of a row lay. */
  spread?: (row: HistoryRow) => unknown[];
}

/** What a bench measures, by the kind of its rows. */
const MEASURED: Record<string, readonly Metric[]> = {
  peaks: [
    { value: "f32_gflops", better: "more" },
    { value: "bf16_gflops", better: "more" },
    { value: "memory_gb_s", better: "more" },
  ],
  overhead: [
    { value: "us", better: "less" },
    { value: "taped_us", better: "less" },
  ],
  op: [
    { value: "median_ms", better: "less", spread: (row) => [row.p10_ms, row.p90_ms] },
    { value: "share_of_peak", better: "more", spread: sharesOfRepeats },
  ],
  step: [
    { value: "seconds", better: "less", spread: (row) => [row.p10, row.p90] },
    { value: "share_of_peak", better: "more" },
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
  beside: [
    { value: "alone_tok_s", better: "more" },
    { value: "kept", better: "more" },
  ],
  peer: [
    { value: "tokens_per_s", better: "more" },
    { value: "peak_rss_mib", better: "less" },
    { value: "prompt_tok_s", better: "more" },
    { value: "decode_tok_s", better: "more" },
  ],
};
/** Fields that tell one case of a kind from another, besides the options of its command. */
const CASE = [
  ...["device", "op", "dtype", "isa", "threads", "m", "n", "k", "quant", "seq", "batch", "rank", "checkpointing"],
  ...["what", "party", "machine", "cores"],
];
/** Options that CASE holds already, and those that say only how often it was measured or how it was printed. */
const NO_CASE = /\s--(?:json|checkpointing|(?:seq|batch|rank|dtype|steps|rounds) \S+)/g;
/** A change below this share is called noise whatever the spread says. */
const LEAST = 0.03;

export interface Change {
  what: string;
  metric: string;
  /** The earlier commit. */
  since: string;
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
 * What changed in the rows of a commit since another, or since the last commit before it that measured the case, on the same machine.
 * A change counts where the two ranges do not touch: from the lowest to the highest row of a commit, the rows' own spread included.
 * One row without a spread has no range, so nothing is concluded from it.
 */
export function compare(rows: readonly HistoryRow[], to: string, from?: string): Change[] {
  const commits = commitsOf(rows);
  const earlier = from ? [from] : commits.slice(0, commits.indexOf(to)).reverse();
  const cases = new Map<string, HistoryRow[]>();
  for (const row of rows) cases.set(caseOf(row), [...(cases.get(caseOf(row)) ?? []), row]);
  return [...cases].flatMap(([what, all]) => {
    const of = (commit: string) => all.filter((row) => row.commit === commit);
    return (MEASURED[all[0]!.kind] ?? []).flatMap((metric): Change[] => {
      const b = measured(of(to), metric);
      const since = b && earlier.find((commit) => measured(of(commit), metric));
      const a = since && measured(of(since), metric);
      if (!a) return [];
      const gain = metric.better === "less" ? a.middle / b.middle : b.middle / a.middle;
      const apart = a.high < b.low || b.high < a.low;
      const verdict = !(a.repeated && b.repeated)
        ? "measured once"
        : !apart || Math.abs(gain - 1) < LEAST
          ? "noise"
          : gain > 1
            ? "better"
            : "worse";
      return [{ what, metric: metric.value, since, from: a.middle, to: b.middle, gain, verdict }];
    });
  });
}

/** Commits on record, in the order in which they were first measured. */
export const commitsOf = (rows: readonly HistoryRow[]): string[] => [
  ...new Set([...rows].sort((a, b) => a.when.localeCompare(b.when)).map((row) => row.commit)),
];

function caseOf(row: HistoryRow): string {
  const fields = CASE.filter((field) => row[field] !== undefined).map((field) => `${field}=${row[field]}`);
  return [row.command.replace(NO_CASE, ""), row.kind, ...fields].join(" ");
}

/** Shares of a probe that ran in turns with the op: of its slower and faster repeats. */
function sharesOfRepeats({ share_of_peak, median_ms, p10_ms, p90_ms }: HistoryRow): number[] {
  return [p10_ms, p90_ms].map((ms) => (Number(share_of_peak) * Number(median_ms)) / Number(ms));
}

function measured(rows: readonly HistoryRow[], { value, spread }: Metric): Measured | undefined {
  const isNumber = (v: unknown): v is number => typeof v === "number" && Number.isFinite(v);
  const values = rows
    .map((row) => row[value])
    .filter(isNumber)
    .sort((a, b) => a - b);
  if (values.length === 0) return undefined;
  const all = [...values, ...rows.flatMap((row) => spread?.(row) ?? []).filter(isNumber)];
  return {
    middle: (values[(values.length - 1) >> 1]! + values[values.length >> 1]!) / 2,
    low: Math.min(...all),
    high: Math.max(...all),
    repeated: all.length > 1,
  };
}
