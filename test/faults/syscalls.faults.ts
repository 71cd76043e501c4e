/**
 * Every file system call of save, prune and export, one by one: killed there, or answered with an error. Afterwards the folder holds the
 * old or the new state, whole, and the next save works. A recording finds the calls; strace makes them fail.
 * LOWRANK_FAULTS=all adds what cannot differ or cannot happen: kills at calls that change nothing, ENOSPC and EINTR where only is read.
 */
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { roundsFolder } from "./folders.js";
import { assertStrace, type Call, record, Strace } from "./strace.js";
import { type Outcome, Worker } from "./worker.js";

const SCENARIOS = ["run", "export to a new folder", "export over an older one", "adapters over older ones"];
const FAULTS = ["SIGKILL", "EIO", "ENOSPC", "EINTR"] as const;
type Fault = (typeof FAULTS)[number];
const ALL = process.env.LOWRANK_FAULTS === "all";
const SHIFTS = [0, 0, ...[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].flatMap((n) => [-n, n]), ...[0, -1, 1, -2, 2, -3, 3, -4, 4]];
/** Rounds whose folders are kept until their process has ended and they are checked. */
const BATCH = 60;

interface Round {
  call: Call;
  fault: Fault;
  dir: string;
  outcome: Outcome;
}

/** Whether a call changes what is on the disk, or the file it works on. */
const changes = ({ name, text }: Call) =>
  /^(write|pwrite64|ftruncate|fallocate|fsync|rename|mkdir|rmdir|unlink|link|close)/.test(name) || text.includes("O_CREAT");

/** Without the parts of names that are never the same, calls that look alike come from one place. */
function place({ thread, name, text }: Call): string {
  return `${thread} ${name} ${text.replace(/\.lowrank-tmp-[\w-]+|\d+/g, "").slice(0, 200)}`;
}

/** The file that a call is about, whatever round and process it belongs to. */
function fileOf(text: string): string | undefined {
  return /lowrank-faults-\w+\/round-\d+([^>"]*)/.exec(text)?.[1]?.replace(/\.lowrank-tmp-[\w-]+/g, "");
}

/** Faults that can make a difference: at each call that changes something, and at the first of each place that only reads. */
function jobsFor(calls: readonly Call[]): { fault: Fault; call: Call }[] {
  const places = new Set<string>();
  return calls.flatMap((call) => {
    const first = !places.has(place(call));
    places.add(place(call));
    const faults = FAULTS.filter((fault) => ALL || changes(call) || (first && fault === "EIO"));
    return faults.map((fault) => ({ fault, call }));
  });
}
const describeRound = ({ call, fault }: Round) =>
  `${fault} at ${call.thread} ${call.name} #${call.number} ${call.text.slice(0, 150)}`;

class Sweep {
  readonly at: string;
  readonly #root = roundsFolder();
  #count = 0;
  readonly wrong: string[] = [];
  readonly tally = new Map<string, number>();

  constructor(readonly scenario: string) {
    this.at = join(this.#root, "right");
  }

  async worker(): Promise<Worker> {
    const worker = new Worker();
    await worker.must({ act: "warm up", scenario: this.scenario, at: this.at });
    return worker;
  }

  newFolder(): string {
    const dir = join(this.#root, `round-${this.#count++}`);
    return dir;
  }

  async calls(): Promise<Call[]> {
    const first = new Worker();
    await first.must({ act: "reference", scenario: this.scenario, at: this.at });
    await first.end();
    const worker = await this.worker();
    const dir = this.newFolder();
    const traces = join(this.#root, "traces");
    mkdirSync(traces);
    await worker.must({ act: "prepare", scenario: this.scenario, at: this.at, dir });
    const calls = await record(await worker.threads, traces, () =>
      worker.must({ act: "work", scenario: this.scenario, at: this.at, dir }),
    );
    await worker.end();
    return calls.filter(({ text }) => text.includes(dir));
  }

  /**
   * One round; undefined where the fault met a call on another file: the event loop's own calls are not always as many, so the number
   * is tried a little lower and higher.
   */
  async round(worker: Worker, call: Call, fault: Fault, shift: number): Promise<Round | undefined> {
    const dir = this.newFolder();
    const log = `${dir}.strace`;
    await worker.must({ act: "prepare", scenario: this.scenario, at: this.at, dir });
    const what = fault === "SIGKILL" ? "signal=SIGKILL" : `error=${fault}`;
    const strace = await Strace.attach((await worker.threads)[call.thread], [
      ...[
        "-y",
        "-o",
        log,
        "-e",
        `trace=${call.name}`,
        "-e",
        `inject=${call.name}:${what}:when=${Math.max(1, call.number + shift)}`,
      ],
    ]);
    const outcome = await worker.ask({ act: "work", scenario: this.scenario, at: this.at, dir });
    await strace.detach();
    const lines = readFileSync(log, "latin1").split("\n");
    // A killed thread's call is the last one, without a result.
    const met =
      fault === "SIGKILL"
        ? lines.filter((line) => line.startsWith(call.name)).at(-1)
        : lines.find((line) => line.includes("(INJECTED)"));
    rmSync(log);
    if (met?.includes(dir) && fileOf(met) === fileOf(call.text) && (fault !== "SIGKILL" || outcome.ended === "killed"))
      return { call, fault, dir, outcome };
    rmSync(dir, { recursive: true, force: true });
    return undefined;
  }

  /** What must be true afterwards, seen by a process that knows nothing of it. */
  async check(rounds: readonly Round[]): Promise<void> {
    const checker = new Worker();
    for (const round of rounds) {
      const { fault, dir, outcome } = round;
      const { announced } = outcome;
      const ended =
        outcome.ended === "failed" ? (outcome.typed ? `typed error ${outcome.code}` : "untyped error") : outcome.ended;
      const key = `${fault}: ${ended}`;
      this.tally.set(key, (this.tally.get(key) ?? 0) + 1);
      if (ended === "untyped error" || (ended === "killed") !== (fault === "SIGKILL"))
        this.wrong.push(`${describeRound(round)}: ${ended}: ${outcome.message}`);
      const verdict = await checker.ask({ act: "check", scenario: this.scenario, at: this.at, dir, announced });
      if (verdict.ended !== "done") this.wrong.push(`${describeRound(round)} after ${ended}: ${verdict.message}`);
      rmSync(dir, { recursive: true, force: true });
    }
    await checker.end();
  }
}

beforeAll(assertStrace);

describe.each(SCENARIOS)("%s", (scenario) => {
  it("survives a kill or an error at every file call", async () => {
    const sweep = new Sweep(scenario);
    const calls = await sweep.calls();
    expect(calls.filter(changes).length).toBeGreaterThan(50);
    const jobs = jobsFor(calls);
    const missed: string[] = [];
    // Errors leave the process alive for the next round; a kill needs a new one, started while the last is at work.
    const lane = async () => {
      let worker: Worker | undefined;
      let rounds: Round[] = [];
      const flush = async () => {
        await worker?.end();
        worker = undefined;
        await sweep.check(rounds);
        rounds = [];
      };
      for (let job = jobs.pop(); job !== undefined; job = jobs.pop()) {
        let round: Round | undefined;
        for (let tries = 0; round === undefined && tries < SHIFTS.length; tries++) {
          if (worker === undefined || worker.ended) worker = await sweep.worker();
          round = await sweep.round(worker, job.call, job.fault, SHIFTS[tries]!);
        }
        if (round === undefined)
          missed.push(`${job.fault} ${job.call.thread} ${job.call.name} #${job.call.number} ${job.call.text.slice(0, 150)}`);
        else rounds.push(round);
        if (rounds.length >= BATCH) await flush();
      }
      await flush();
    };
    const total = jobs.length;
    await Promise.all([lane(), lane()]);
    console.log(
      `${scenario}: ${calls.length} calls, ${total} rounds: ${[...sweep.tally]
        .sort()
        .map(([key, n]) => `${key} ${n}`)
        .join(", ")}; ${sweep.wrong.length} wrong`,
    );
    expect(sweep.wrong).toEqual([]);
    expect(missed).toEqual([]);
  });
});
