#!/usr/bin/env node
// `npm run coverage:native`: which branches of native/addon and native/core the tests take, by gcov. Fails where native/addon has
// fewer than 98 %. The C++ tests and the addon, from a copy of the sources in .cache/coverage, are built instrumented and without
// optimization; both add up. Arguments replace the list of tests.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { steps } from "./build-steps/shadow.mjs";

const LEAST = 98;
const FLAGS = ["-O0", "-fno-inline", "--coverage", "-fprofile-update=atomic"];
const KERNEL_FLAGS = ["-O3", "-fprofile-filter-files=none"]; // as fast as ever: they are not counted
const TESTS = ["test/native", "test/tensor", "test/ops"];
const NOT = ["build", "objects"].map((name) => `test/native/${name}.test.ts`); // they look at the build itself

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const gcov = process.env.GCOV || "gcov";
const { fail, need, nativeTests, copy, buildCopy, testCopy } = steps(root, "coverage:native");

/** Files of counts below a folder. */
const countsIn = (folder) =>
  readdirSync(folder, { recursive: true, encoding: "utf8" })
    .filter((path) => path.endsWith(".gcda"))
    .map((path) => join(folder, path));

/** The C++ tests of core, of which the addon's own sources are no part, then the addon under the tests in TypeScript. */
function countedRuns() {
  for (const folder of ["native-tests/coverage", "coverage/build"].map((name) => join(root, ".cache", name)))
    if (existsSync(folder)) for (const file of countsIn(folder)) rmSync(file);
  const tests = nativeTests("coverage", FLAGS.join(" "));
  const shadow = copy("coverage");
  const list = join(shadow, "native/sources.json");
  const sources = JSON.parse(readFileSync(list, "utf8"));
  sources.cflags.push(...FLAGS);
  sources.isa.cflags.push(...KERNEL_FLAGS);
  writeFileSync(list, JSON.stringify(sources));
  const gyp = join(shadow, "binding.gyp");
  writeFileSync(gyp, readFileSync(gyp, "utf8").replace('"ldflags": [', '"ldflags": [ "--coverage",'));
  // The emulated device is not counted: the checkout's own serves.
  cpSync(join(root, "build/emu"), join(shadow, "build/emu"), { recursive: true, preserveTimestamps: true });
  buildCopy(shadow);
  const wanted = process.argv.slice(2);
  testCopy(shadow, [
    "--config=vitest.counts.config.ts",
    ...(wanted.length > 0 ? wanted : [...TESTS, ...NOT.flatMap((path) => ["--exclude", path])]),
  ]);
  return [...countsIn(tests), ...countsIn(join(shadow, "build"))];
}

/** How many instances of a template begin where the innermost function around a line begins. */
function instancesAt(line, functions) {
  const around = functions.filter((f) => f.start_line <= line && line <= f.end_line);
  const begin = ({ start_line, start_column }) => start_line * 1e4 + start_column;
  const innermost = Math.max(...around.map(begin));
  return around.filter((f) => begin(f) === innermost).length;
}

/** How often each branch of each file was taken: path → "line/number" → times. Instances of a template and copies of a header add up. */
function branchesOf(counts) {
  const files = new Map();
  const { stdout, status, error } = spawnSync(gcov, ["--json-format", "--stdout", "--branch-probabilities", ...counts], {
    encoding: "utf8",
    maxBuffer: 1 << 30,
    cwd: root,
  });
  if (status !== 0) fail(`${gcov} ended with ${error?.message ?? status}`);
  for (const report of stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line)))
    for (const { file, lines, functions } of report.files) {
      const path = /native\/(addon|core)\/[^/]+$/.exec(file)?.[0];
      if (path === undefined) continue;
      if (!files.has(path)) files.set(path, new Map());
      const taken = files.get(path);
      for (const { line_number: line, branches, function_name: name } of lines) {
        // A call that may throw is a pair as well, but no branch of the source.
        const real = branches.filter((branch, i) => !branch.throw && !branches[i + 1]?.throw);
        // Without a name a line holds the branches of all instances, one after the other.
        const each = real.length / (name === undefined ? instancesAt(line, functions) : 1);
        for (const [i, { count }] of real.entries()) {
          const key = `${line}/${i % each}`;
          taken.set(key, (taken.get(key) ?? 0) + count);
        }
      }
    }
  return files;
}

need([[spawnSync(gcov, ["--version"]).status === 0, gcov, "gcc"]]);
const files = [...branchesOf(countedRuns())].sort(([a], [b]) => (a < b ? -1 : 1));
const share = (taken) => {
  const times = [...taken];
  const hit = times.filter((n) => n > 0).length;
  return { text: `${hit} of ${times.length}`.padStart(11), percent: times.length === 0 ? 100 : (100 * hit) / times.length };
};
const row = (name, { text, percent }, rest = "") =>
  console.log(`${name.padEnd(32)}${text}  ${percent.toFixed(1).padStart(5)} %  ${rest}`);
for (const [path, taken] of files) {
  const missed = [...taken].filter(([, n]) => n === 0).map(([key]) => key);
  row(path, share(taken.values()), missed.sort((a, b) => Number.parseInt(a, 10) - Number.parseInt(b, 10)).join(" "));
}
let reached = 0;
for (const folder of ["native/core", "native/addon"]) {
  const all = share(files.filter(([path]) => path.startsWith(folder)).flatMap(([, taken]) => [...taken.values()]));
  row(`all of ${folder}`, all);
  reached = all.percent;
}
if (reached < LEAST) fail(`native/addon has fewer than ${LEAST} %; above, the branches never taken by line/number`);
