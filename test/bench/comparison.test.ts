import { describe, expect, it } from "vitest";
import { commitsOf, compare } from "../../bench/comparison.js";
import type { HistoryRow } from "../../bench/history.js";

const common = { when: "2026-01-01T00:00:00", machine: "M", cores: 2, node: "v20", command: "ops" };
const op = (commit: string, median: number, more: Record<string, unknown> = {}): HistoryRow => ({
  ...{ ...common, kind: "op", commit, op: "linear", isa: "avx2", m: 1, n: 2, k: 3 },
  ...{ median_ms: median, p10_ms: median * 0.95, p90_ms: median * 1.05, ...more },
});
const generate = (commit: string, rate: number): HistoryRow => ({ ...common, kind: "generate", commit, decode_tok_s: rate });
const verdicts = (rows: HistoryRow[]) =>
  compare(rows, "b", "a").map(({ verdict, gain }) => [verdict, Math.round(gain * 100) / 100]);

describe("rows of two commits", () => {
  it("less time is better, more is worse, where the spreads do not touch", () => {
    expect(verdicts([op("a", 2), op("b", 1)])).toEqual([["better", 2]]);
    expect(verdicts([op("a", 1), op("b", 2)])).toEqual([["worse", 0.5]]);
  });
  it("is noise where spreads touch, of all rows of a commit, or where little changed", () => {
    expect(verdicts([op("a", 1), op("b", 1.08)])).toEqual([["noise", 0.93]]);
    expect(verdicts([op("a", 2), op("a", 1.2), op("a", 2), op("b", 1.2)])).toEqual([["noise", 1.67]]);
    expect(verdicts([op("a", 1, { p10_ms: 1, p90_ms: 1 }), op("b", 0.98, { p10_ms: 0.98, p90_ms: 0.98 })])).toEqual([
      ["noise", 1.02],
    ]);
  });
  it("more of a rate is better, and one run of it shows nothing", () => {
    expect(verdicts([generate("a", 50), generate("b", 60)])).toEqual([["measured once", 1.2]]);
    expect(verdicts([generate("a", 50), generate("a", 52), generate("b", 61), generate("b", 63)])).toEqual([["better", 1.22]]);
  });
  it("does not mix machines, instruction sets, shapes and commands", () => {
    for (const other of [{ machine: "N" }, { isa: "avx512" }, { m: 2 }, { seq: 512 }, { command: "ops --device x" }])
      expect(compare([op("a", 1), op("b", 2, other)], "b", "a")).toEqual([]);
  });
  it("takes the same case by another command for the same", () => {
    const steps = [
      op("a", 2, { command: "step --model m --seq 256 --steps 3" }),
      op("b", 1, { command: "step --model m --json" }),
    ];
    expect(verdicts(steps)).toEqual([["better", 2]]);
  });
  it("a share of a probe in turns has the spread of the times", () => {
    const shared = (commit: string, ms: number, share: number) => op(commit, ms, { share_of_peak: share });
    expect(verdicts([shared("a", 1, 0.8), shared("b", 1.5, 0.82)])).toEqual([
      ["worse", 0.67],
      ["noise", 1.02],
    ]);
    expect(verdicts([shared("a", 1, 0.6), shared("b", 1, 0.8)])[1]).toEqual(["better", 1.33]);
  });
  it("compares each case with the last commit before that measured it", () => {
    const at = (day: number) => ({ when: `2026-01-0${day}` });
    const rows = [op("a", 4, at(1)), op("b", 2, at(2)), generate("c", 50), op("d", 1, at(4)), op("e", 8, at(5))];
    rows[2]!.when = "2026-01-03";
    expect(compare(rows, "d").map(({ since, gain }) => [since, gain])).toEqual([["b", 2]]);
  });
  it("knows the commits in the order of time", () => {
    expect(commitsOf([{ ...op("b", 1), when: "2026-01-02" }, op("a", 1), op("a", 1)])).toEqual(["a", "b"]);
  });
});
