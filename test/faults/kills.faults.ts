/**
 * SIGKILL at random instants of train + save + prune. After each kill the same command runs again: it must go on from what was reported
 * as saved or from something newer, and in the end the files must be those of a run that nobody disturbed.
 * LOWRANK_KILLS=N (100) kills, LOWRANK_SEED (1) chooses the instants.
 */
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { expect, it } from "vitest";
import { roundsFolder } from "./folders.js";
import { generator } from "./random.js";

const KILLS = Number(process.env.LOWRANK_KILLS ?? 100);
const SEED = Number(process.env.LOWRANK_SEED ?? 1);
const STEPS = 25;

interface Ending {
  killed: boolean;
  code: number | null;
  start: number | undefined;
  saved: number;
  done: boolean;
  errors: string;
  /** Milliseconds from its start to the beginning and the end of the training. */
  times: { started: number; ended: number };
}

/** One process; killed some milliseconds from its launch, or from when it begins to train at a step. */
async function train(folder: string, kill?: { launch: number } | { start: (step: number) => number }): Promise<Ending> {
  const launched = performance.now();
  const child = spawn(process.execPath, [join(import.meta.dirname, "train-child.mjs"), folder, String(STEPS)], {
    env: { ...process.env, LOWRANK_ISA: "avx2", UV_THREADPOOL_SIZE: "2" },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const ending: Ending = {
    killed: false,
    code: null,
    start: undefined,
    saved: 0,
    done: false,
    errors: "",
    times: { started: 0, ended: 0 },
  };
  let timer: NodeJS.Timeout | undefined;
  const arm = (after: number) => {
    timer = setTimeout(() => child.kill("SIGKILL"), after);
  };
  if (kill && "launch" in kill) arm(kill.launch);
  child.stderr.on("data", (data) => {
    ending.errors += data;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    const said = JSON.parse(line);
    if (said.start !== undefined) {
      ending.start = said.start;
      ending.times.started = performance.now() - launched;
      if (kill && "start" in kill) arm(kill.start(said.start));
    }
    if (said.saved !== undefined) ending.saved = said.saved;
    if (said.done) ending.done = true;
  });
  await new Promise<void>((resolve) => {
    child.on("close", (code, signal) => {
      clearTimeout(timer);
      ending.killed = signal === "SIGKILL";
      ending.code = code;
      ending.times.ended = performance.now() - launched;
      resolve();
    });
  });
  return ending;
}

/** What must be equal to an undisturbed run: weights and optimizer of the end and of the checkpoints kept; the rest by name. */
function result(folder: string): Record<string, string> {
  const names = readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
  const log = readFileSync(join(folder, "trainer_log.jsonl"), "utf8").trim().split("\n");
  return Object.fromEntries([
    ...names.map((name) => [name, name.endsWith(".safetensors") ? readFileSync(join(folder, name), "latin1") : ""]),
    ["steps in the log", log.map((line) => JSON.parse(line).current_steps).join()],
  ]);
}

it("loses nothing", async () => {
  const root = roundsFolder();
  const times: Ending["times"][] = [];
  for (let i = 0; i < 3; i++) {
    rmSync(join(root, "whole"), { recursive: true, force: true });
    const ending = await train(join(root, "whole"));
    expect(ending).toMatchObject({ done: true, code: 0, start: 0, saved: STEPS });
    times.push(ending.times);
  }
  const whole = result(join(root, "whole"));
  const startTime = Math.min(...times.map(({ started }) => started));
  const trainTime = Math.min(...times.map(({ started, ended }) => ended - started));

  const wrong: string[] = [];
  let kills = 0;
  let runs = 0;
  let launches = 0;
  const lane = async (number: number) => {
    const random = generator(SEED * 7919 + number);
    for (let turn = 0; kills < KILLS; turn++) {
      const folder = join(root, `lane-${number}-${turn}`);
      let announced = 0;
      let ending: Ending;
      do {
        launches++;
        // One in eight before training begins: while the folder is locked, read and settled.
        const early = random() < 1 / 8;
        const when = random();
        const kill = early
          ? { launch: when * startTime }
          : { start: (step: number) => (when * trainTime * (STEPS - step + 1)) / STEPS };
        ending = await train(folder, kills < KILLS ? kill : undefined);
        if (ending.start !== undefined && ending.start < announced)
          wrong.push(`step ${announced} was saved, the run went on from ${ending.start}`);
        announced = Math.max(announced, ending.saved);
        if (ending.killed && ++kills % 100 === 0) console.log(`${kills} kills, ${wrong.length} wrong`);
      } while (ending.killed);
      runs++;
      if (!ending.done || ending.code !== 0) {
        wrong.push(`run ${number}-${turn} failed after step ${announced}: ${ending.errors}`);
        continue;
      }
      const found = result(folder);
      const differing = [...new Set([...Object.keys(whole), ...Object.keys(found)])].filter(
        (name) => found[name] !== whole[name],
      );
      if (differing.length > 0) wrong.push(`run ${number}-${turn} ended otherwise: ${differing}`);
      rmSync(folder, { recursive: true, force: true });
    }
  };
  await Promise.all([lane(0), lane(1)]);
  console.log(`${kills} kills in ${launches} launches over ${runs} runs of ${STEPS} steps, seed ${SEED}: ${wrong.length} wrong`);
  expect(kills).toBeGreaterThanOrEqual(KILLS);
  expect(wrong).toEqual([]);
}, 1e9);
