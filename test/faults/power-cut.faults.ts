/**
 * A power cut after every step of save, prune and export. The steps come from a recording; what was not fsynced may be lost, in several
 * ways for each step. On every disk that can result, the announced state must load and the next save must work.
 * LOWRANK_CUTS=N adds N random losses to each step (3), LOWRANK_SEED chooses them (1).
 */
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { CrashDisk, type Keep, materialise, stateOf } from "./crash-disk.js";
import { roundsFolder } from "./folders.js";
import { generator } from "./random.js";
import { assertStrace, record } from "./strace.js";
import { Worker } from "./worker.js";

const SCENARIOS = ["run", "a new run", "export to a new folder", "export over an older one", "adapters over older ones"];
const RANDOM = Number(process.env.LOWRANK_CUTS ?? 3);
const SEED = Number(process.env.LOWRANK_SEED ?? 1);

const LOSSES: readonly Keep[] = [() => false, () => true, ({ file }) => file === undefined, ({ file }) => file !== undefined];

beforeAll(assertStrace);

describe.each(SCENARIOS)("%s", (scenario) => {
  it("survives a power cut after every step", async () => {
    const root = roundsFolder();
    const at = join(root, "right");
    const dir = join(root, "work");
    const worker = new Worker();
    await worker.must({ act: "reference", scenario, at });
    await worker.must({ act: "warm up", scenario, at });
    await worker.must({ act: "prepare", scenario, at, dir });
    const traces = join(root, "traces");
    mkdirSync(traces);
    const work = () => worker.must({ act: "work", scenario, at, dir });
    const calls = await record(await worker.threads, traces, work, ["-xx", "-s", "10000000"]);
    await worker.end();
    const before = join(at, "before");
    if (!existsSync(before)) mkdirSync(before);
    const disk = new CrashDisk(before, dir, calls);
    const steps = disk.steps.length;
    // The model has understood the recording: where nothing is lost, it holds what the real folder holds.
    expect(disk.after(steps, () => true)).toEqual(stateOf(dir));

    const seen = new Set<string>();
    const states: { what: string; state: Map<string, Buffer>; announced: string[] }[] = [];
    for (let step = 0; step <= steps; step++) {
      const random = generator(SEED * 100_003 + step);
      const lottery: Keep = () => [true, false, "half" as const][Math.floor(random() * 3)]!;
      const single = disk.unsafe(step).flatMap((one): Keep[] => [(_, index) => index !== one, (_, index) => index === one]);
      for (const [i, keep] of [...LOSSES, ...single, ...Array.from({ length: RANDOM }, () => lottery)].entries()) {
        const state = disk.after(step, keep);
        const announced = disk.announced(step);
        const hash = createHash("sha256").update(announced.join());
        for (const [name, data] of [...state].sort(([a], [b]) => (a < b ? -1 : 1)))
          hash.update(`\0${name}\0${data.length}\0`).update(data);
        const key = hash.digest("hex");
        if (seen.has(key)) continue;
        seen.add(key);
        states.push({ what: `step ${step} of ${steps}, loss ${i}`, state, announced });
      }
    }
    const wrong: string[] = [];
    const total = states.length;
    const lane = async (number: number) => {
      const checker = new Worker();
      for (let next = states.pop(); next !== undefined && wrong.length < 10; next = states.pop()) {
        const folder = join(root, `cut-${number}`);
        materialise(next.state, folder);
        const verdict = await checker.ask({ act: "check", scenario, at, dir: folder, announced: next.announced });
        if (verdict.ended !== "done") wrong.push(`${next.what}, announced ${next.announced}: ${verdict.message}`);
        rmSync(folder, { recursive: true, force: true });
      }
      await checker.end();
    };
    await Promise.all([lane(0), lane(1)]);
    console.log(`${scenario}: ${steps} steps, ${total} different disks, seed ${SEED}: ${wrong.length} wrong`);
    expect(wrong).toEqual([]);
  });
});
