#!/usr/bin/env node
// `npm run test:sanitize`: the C++ tests under ASan + UBSan + LSan and under TSan, then the tests of everything that calls native
// code, in Node, with the addon built under ASan + UBSan. That addon is built from a copy of the sources in .cache/sanitize, by the
// ordinary build with other flags, so neither the build nor the loader knows of it. Arguments replace the list of tests.
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, rmSync, symlinkSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { missingTools } from "./build-steps/tools.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const shadow = join(root, ".cache/sanitize");
const COMMON = "-O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all";
const MEMORY = `${COMMON} -fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr`;
const TESTS = ["test/native", "test/emu", "test/tensor", "test/ops", "test/quant", "test/autograd"];
// They look at the build itself, or end 200 processes that take a second each here.
const NOT = ["build", "objects", "load", "exits"].map((name) => `test/native/${name}.test.ts`);

function fail(text) {
  process.stderr.write(`test:sanitize: ${text}\n`);
  process.exit(1);
}

function run(command, args, options = {}) {
  process.stderr.write(`test:sanitize: ${[command, ...args].join(" ").replaceAll(root, ".")}\n`);
  const { status, signal, error } = spawnSync(command, args, { stdio: "inherit", cwd: root, ...options });
  if (status !== 0) fail(`${command} ended with ${error?.message ?? signal ?? status}`);
}

/** The compiler's library of that name, which must come before everything else in a process that it did not link. */
function library(name) {
  const path = spawnSync(process.env.CXX || "g++", [`-print-file-name=${name}`], { encoding: "utf8" }).stdout?.trim() ?? "";
  return path.startsWith("/") && existsSync(path) ? path : undefined;
}

const { problems, packages } = missingTools();
for (const [found, what, name] of [
  [spawnSync("cmake", ["--version"]).status === 0, "cmake", "cmake"],
  [existsSync("/usr/include/gtest/gtest.h"), "GoogleTest", "libgtest-dev"],
  [library("libasan.so"), "the sanitizers' libraries", "g++"],
]) {
  if (found) continue;
  problems.push(what);
  if (!packages.includes(name)) packages.push(name);
}
if (problems.length > 0) fail(`needs ${problems.join(", ")}.\n  apt-get install -y ${packages.join(" ")}`);

for (const [name, flags] of [
  ["memory", MEMORY],
  ["threads", `${COMMON} -fsanitize=thread`],
]) {
  const folder = join(root, ".cache/native-tests", name);
  run("cmake", [
    "-S",
    root,
    "-B",
    folder,
    "-DCMAKE_BUILD_TYPE=None",
    `-DCMAKE_CXX_FLAGS=${flags}`,
    "-Wno-dev",
    "--log-level=WARNING",
  ]);
  run("cmake", ["--build", folder, "-j", "2", "--", "--no-print-directory", "-s"]);
  run(join(folder, "native-tests"), ["--gtest_brief=1"], { env: { ...process.env, UBSAN_OPTIONS: "print_stacktrace=1" } });
}

mkdirSync(shadow, { recursive: true });
for (const part of ["binding.gyp", "native", "package.json", "scripts", "src", "test", "tsconfig.json", "vitest.config.ts"]) {
  rmSync(join(shadow, part), { recursive: true, force: true });
  cpSync(join(root, part), join(shadow, part), {
    recursive: true,
    preserveTimestamps: true,
    filter: (path) => !path.includes("golden/cases"),
  });
}
rmSync(join(shadow, "node_modules"), { force: true });
symlinkSync(join(root, "node_modules"), join(shadow, "node_modules"));
const flags = { CXXFLAGS: MEMORY, LDFLAGS: "-fsanitize=address,undefined" };
run(process.execPath, ["scripts/build.mjs", "--native"], { cwd: shadow, env: { ...process.env, ...flags } });

const wanted = process.argv.slice(2);
run(
  process.execPath,
  [
    "node_modules/vitest/vitest.mjs",
    "run",
    ...(wanted.length > 0 ? wanted : [...TESTS, ...NOT.flatMap((path) => ["--exclude", path])]),
  ],
  {
    cwd: shadow,
    env: {
      ...process.env,
      LD_PRELOAD: `${library("libasan.so")} ${library("libubsan.so")}`,
      // Leaks of the addon are counted by the tests; Node and V8 keep much until the end.
      ASAN_OPTIONS: "detect_leaks=0:allocator_may_return_null=1",
      UBSAN_OPTIONS: "print_stacktrace=1",
    },
  },
);
