#!/usr/bin/env node
// `npm run build:cuda`: compiles every CUDA source for every architecture of native/sources.json into build/cuda/lowrank_cuda.so and writes what
// ptxas says of each kernel to bench/results/ptxas.jsonl. Needs no GPU. Objects are named by the hash of all they are made of.
// Ends with 1 where a hot kernel spills or holds fewer blocks than the head of its file states (scripts/cuda/ptxas.mjs), with 75 (EX_TEMPFAIL)
// where there is no compiler and it cannot be fetched.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { hashFiles, withIncludes } from "../build-steps/files.mjs";
import { withLock } from "../build-steps/lock.mjs";
import { judge, parseReport } from "./ptxas.mjs";
import { findToolkit, NoToolkit } from "./toolkit.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
const FOLDER = "build/cuda";
const LIBRARY = `${FOLDER}/lowrank_cuda.so`;
const REPORT = "bench/results/ptxas.jsonl";
const { cuda } = JSON.parse(readFileSync(join(root, "native/sources.json"), "utf8"));
const say = (text) => process.stderr.write(`build: ${text}\n`);

/** A makefile in which every object and its ptxas report carry the hash of their inputs. */
function plan({ nvcc, libraries, version }) {
  const targets = [
    ...cuda.architectures.map((a) => `-gencode=arch=compute_${a},code=sm_${a}`),
    ...cuda.ptx.map((a) => `-gencode=arch=compute_${a},code=compute_${a}`),
  ];
  const command = [nvcc, ...cuda.cflags, ...targets].join(" ");
  const objects = cuda.sources.map((source) => {
    const hash = hashFiles(root, withIncludes(root, source), [version, ...cuda.cflags, ...targets]);
    return { source, object: `${FOLDER}/${basename(source, ".cu")}-${hash.slice(0, 16)}.o` };
  });
  const rules = objects.map(({ source, object }) => {
    const report = object.replace(/o$/, "ptxas");
    return `${object}:\n\t${command} -c ${source} -o $@.part >${report} 2>&1 || { cat ${report} >&2; rm -f ${report}; exit 1; }\n\tmv $@.part $@`;
  });
  const link = `${nvcc} -shared -cudart static ${libraries === undefined ? "" : `-L${libraries}`} -Xlinker=-z,nodelete`;
  const all = `${LIBRARY}: ${objects.map(({ object }) => object).join(" ")}\n\t${link} $^ -o $@.part && mv $@.part $@`;
  return { text: [all, ...rules, ""].join("\n"), objects };
}

function build() {
  const toolkit = findToolkit(root, cuda, say);
  const { text, objects } = plan(toolkit);
  mkdirSync(join(root, FOLDER), { recursive: true });
  const kept = objects.flatMap(({ object }) => [basename(object), basename(object).replace(/o$/, "ptxas")]);
  for (const file of readdirSync(join(root, FOLDER)))
    if (/\.(o|ptxas|part)$/.test(file) && !kept.includes(file)) rmSync(join(root, FOLDER, file));
  const missing = objects.filter(({ object }) => !existsSync(join(root, object)));
  if (missing.length > 0) {
    // A library of other objects may be newer than these.
    rmSync(join(root, LIBRARY), { force: true });
    say(
      `nvcc ${toolkit.version}: compiling ${missing.length} of ${objects.length} CUDA sources for ${cuda.architectures.length} architectures`,
    );
  }
  writeFileSync(join(root, FOLDER, "Makefile"), text);
  const begin = Date.now();
  const make = spawnSync("make", ["-s", `-j${availableParallelism()}`, "-f", `${FOLDER}/Makefile`], {
    cwd: root,
    stdio: ["ignore", 2, 2],
  });
  if (make.status !== 0) throw new Error("compiling the CUDA kernels failed: the compiler's words are above");
  if (missing.length > 0) say(`${LIBRARY}: done in ${((Date.now() - begin) / 1000).toFixed(1)} s`);

  const problems = [];
  const rows = objects.flatMap(({ source, object }) => {
    const report = readFileSync(join(root, object.replace(/o$/, "ptxas")), "utf8");
    const found = parseReport(spawnSync("c++filt", { input: report, encoding: "utf8" }).stdout);
    problems.push(...judge(source, readFileSync(join(root, source), "utf8"), found));
    found.sort((a, b) => a.kernel.localeCompare(b.kernel, "en") || a.architecture - b.architecture);
    return found.map((row) => ({ file: basename(source), ...row, nvcc: toolkit.version }));
  });
  mkdirSync(join(root, dirname(REPORT)), { recursive: true });
  writeFileSync(join(root, REPORT), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  const kernels = new Set(rows.map(({ file, kernel }) => `${file} ${kernel}`)).size;
  const spilling = rows.filter(({ spills }) => spills > 0).length;
  console.log(
    `${kernels} kernels, ${rows.length} reports in ${REPORT}: ${rows.filter(({ hot }) => hot).length} of hot kernels, ${spilling} with spills`,
  );
  for (const problem of problems) console.error(problem);
  return problems.length === 0;
}

try {
  process.exitCode = withLock(join(root, FOLDER, "lock"), say, build) ? 0 : 1;
} catch (error) {
  say(error.message);
  process.exitCode = error instanceof NoToolkit ? 75 : 1;
}
