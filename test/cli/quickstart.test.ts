import { afterEach, expect, it, vi } from "vitest";
import { quickstartCommand } from "../../src/cli/commands/quickstart.js";
import type { QuickstartEvent, QuickstartResult, Score } from "../../src/quickstart/events.js";
import type { QuickstartOptions } from "../../src/quickstart/run.js";

const scores: Score[] = [
  { exam: "identity", variant: "base", right: 0, total: 75 },
  { exam: "identity", variant: "identity", right: 75, total: 75 },
  { exam: "identity", variant: "sailor", right: 3, total: 75 },
  { exam: "sailor", variant: "base", right: 1, total: 120 },
  { exam: "sailor", variant: "identity", right: 2, total: 120 },
  { exam: "sailor", variant: "sailor", right: 90, total: 120 },
];
const failures = ["The adapter sailor answered 90 of 120 exactly, 75.0 %; the goal is 90 %."];
const result: QuickstartResult = { passed: false, failures, scores, seconds: 12.3, folder: "/models/toy" };
const events: QuickstartEvent[] = [
  { type: "start", version: "1.2.3", node: "v20", isa: "avx2", threads: 2, seed: 5, model: "lowrank/tiny", out: "/models/toy" },
  ...scores.map((score) => ({ type: "score" as const, ...score })),
  { type: "swapped", comparisons: [], swaps: 4, swapMicroseconds: 9 },
  { type: "done", ...result },
];
const given: QuickstartOptions[] = [];
vi.mock("../../src/quickstart/run.js", () => ({
  runQuickstart: async (options: QuickstartOptions) => {
    given.push(options);
    for (const event of events) options.onEvent(event);
    return result;
  },
}));

afterEach(() => {
  vi.restoreAllMocks();
  process.exitCode = undefined;
});

async function run(...args: string[]): Promise<{ stdout: string; stderr: string }> {
  const capture = (stream: NodeJS.WriteStream) => vi.spyOn(stream, "write").mockImplementation(() => true);
  const spies = [capture(process.stdout), capture(process.stderr)] as const;
  await quickstartCommand().parseAsync(args, { from: "user" });
  const [stdout, stderr] = spies.map((spy) => spy.mock.calls.map(([text]) => text).join("")) as [string, string];
  return { stdout, stderr };
}

it("prints the table on stdout, and what was missed with exit code 1", async () => {
  const { stdout, stderr } = await run("--out", "/models/toy", "--seed", "5");
  expect(process.exitCode).toBe(1);
  expect(given.at(-1)).toMatchObject({ out: "/models/toy", seed: 5 });
  expect(stdout).toBe(
    [
      "exact match    questions   base  own adapter  other adapter",
      "identity exam         75  0.0 %      100.0 %          4.0 %",
      "sailor exam          120  0.8 %       75.0 %          1.7 %\n",
    ].join("\n"),
  );
  expect(stderr).toContain("lowrank 1.2.3 quickstart");
  expect(stderr).toContain("It is a toy");
  expect(stderr).toContain(failures[0]);
  expect(stderr).toContain("npx lowrank train /models/toy/real_model.yaml");
});

it("prints nothing but the events on stdout with --json", async () => {
  const { stdout } = await run("--json");
  expect(
    stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line)),
  ).toEqual(events);
});
