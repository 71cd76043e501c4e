/**
 * Seeded ends of processes and environments in mid-operation: `node --import tsx test/native/exits/main.ts --exits 10000 --seed 1`. Every
 * child must end as it was told to: with its exit code, or by the signal that it was sent.
 */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { uniform } from "../../reference/numeric.js";

export interface Exits {
  /** Processes, and the worker environments that came and went in them. */
  processes: number;
  environments: number;
  ways: Record<string, number>;
}

const root = fileURLToPath(new URL("../../..", import.meta.url));
const FLAGS = [
  [],
  [],
  ["--expose-gc"],
  ["--gc-interval=40"],
  ["--gc-interval=300", "--stress-compaction"],
  ["--stress-scavenge=20"],
  ["--gc-global"],
  ["--stress-incremental-marking"],
];
const LIMIT = 60_000;

/** What a process or a worker does until it is stopped: every kind of asynchronous work, never waiting for all of it. */
const WORK = `
function work(a, file, seed) {
  const d = a.openDevice(seed % 3 ? "cpu" : "cpu:scalar:3");
  const t = a.alloc(d, 4, [1 << 20]), f = a.view(t, 0, 0, [1 << 18]), small = a.alloc(d, 4, [5000]);
  const ignored = () => {};
  let turn = seed;
  const step = () => {
    for (let i = 0; i < 8; i++) {
      turn = (turn * 1103515245 + 12345) % 2147483648;
      const part = a.alloc(d, 4, [5000]);
      try {
        switch (turn % 7) {
          case 0: a.read(t).then(ignored, ignored); break;
          case 1: a.readFile(part, 0, file, 0, 5000).then(ignored, ignored); break;
          case 2: a.kernels.random(d, f, 1, 0, 1, BigInt(turn)); break;
          case 3: a.upload(small, new Uint8Array(5000)); break;
          case 4: a.synchronize(d).then(ignored, ignored); break;
          case 5: a.kernels.prefetch(d, 0, f, part); break; // an error, later
          case 6: globalThis.gc?.(); break;
        }
      } finally { a.free(part); }
    }
  };
  step();
  return setInterval(step, 1);
}`;

/** A script and how its process must end. */
function child(rand: (n: number) => number, addon: string, file: string) {
  const way = ["exit", "exit in work", "throw", "reject", "SIGTERM", "end", "exit handler", "workers"][rand(8)]!;
  const delay = rand(way === "workers" ? 4 : 25);
  const workers = way === "workers" ? 6 : rand(4);
  const code = rand(200);
  const load = `const a = require(${JSON.stringify(addon)});`;
  const worker = `${WORK} ${rand(2) ? "" : "/* at once */"} ${load} work(a, ${JSON.stringify(file)}, ${1 + rand(1e6)});`;
  const finale: Record<string, string> = {
    exit: `process.exit(${code})`,
    "exit in work": `a.read(t).catch(() => {}); a.readFile(t, 0, ${JSON.stringify(file)}, 0, 5000).catch(() => {}); process.exit(${code})`,
    throw: `throw new Error("as told")`,
    reject: `Promise.reject(new Error("as told"))`,
    SIGTERM: `process.kill(process.pid, "SIGTERM"); setTimeout(() => {}, 60000)`,
    end: `clearInterval(mine); a.read(t).catch(() => {}); Promise.all(all.map((w) => w.terminate())).then(() => { process.exitCode = ${code}; })`,
    "exit handler": `process.on("exit", () => { for (let i = 0; i < 20; i++) a.free(a.alloc(0, 0, [100])); a.read(t); }); process.exit(${code})`,
    workers: `clearInterval(mine); (async () => {
      for (let i = 0; i < 6; i++) { await new Promise((r) => setTimeout(r, i * ${delay})); all[i].terminate(); all.push(start()); }
      await Promise.all(all.map((w) => w.terminate())); process.exit(${code}); })()`,
  };
  const script = `${WORK} ${load}
    const { Worker } = require("node:worker_threads");
    const start = () => new Worker(${JSON.stringify(worker)}, { eval: true });
    const all = Array.from({ length: ${workers} }, start);
    const mine = work(a, ${JSON.stringify(file)}, ${1 + rand(1e6)});
    const t = a.alloc(0, 4, [5000]);
    setTimeout(() => { ${finale[way]} }, ${delay});`;
  const expected = way === "throw" || way === "reject" ? 1 : way === "SIGTERM" ? "SIGTERM" : code;
  return { way, script, expected, flags: FLAGS[rand(FLAGS.length)]!, environments: way === "workers" ? 12 : workers };
}

/** Ends `count` processes, two at a time; throws at the first that does not end as it was told to. */
export async function exits(count: number, seed: number): Promise<Exits> {
  const addon = (createRequire(import.meta.url)("node-gyp-build") as { path(folder: string): string }).path(root);
  const folder = mkdtempSync(join(tmpdir(), "lowrank-exits-"));
  const file = join(folder, "bytes");
  writeFileSync(file, new Uint8Array(5000));
  const result: Exits = { processes: 0, environments: 0, ways: {} };
  let next = 0;
  const one = async (i: number) => {
    const random = uniform(seed * 1_000_003 + i);
    const { way, script, expected, flags, environments } = child((n) => Math.floor(random() * n), addon, file);
    const process_ = spawn(process.execPath, [...flags, "-e", script], {
      stdio: ["ignore", "ignore", "pipe"],
      timeout: LIMIT,
      killSignal: "SIGKILL",
    });
    let err = "";
    process_.stderr.on("data", (data) => (err += data));
    const ended = await new Promise((resolve) => process_.on("close", (code, signal) => resolve(signal ?? code)));
    if (ended !== expected)
      throw new Error(
        `exit ${i} of seed ${seed} (${way}, ${flags.join(" ")}) ended with ${ended} instead of ${expected}\n${err}\n${script}`,
      );
    result.processes++;
    result.environments += environments;
    result.ways[way] = (result.ways[way] ?? 0) + 1;
  };
  try {
    await Promise.all(
      [0, 1].map(async () => {
        while (next < count) await one(next++);
      }),
    );
  } finally {
    rmSync(folder, { recursive: true });
  }
  return result;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: { exits: { type: "string", default: "200" }, seed: { type: "string", default: "1" } },
  });
  console.log(JSON.stringify(await exits(Number(values.exits), Number(values.seed))));
}
