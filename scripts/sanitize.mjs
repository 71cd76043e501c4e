#!/usr/bin/env node
// `npm run test:sanitize`: the C++ tests under ASan + UBSan + LSan and under TSan, then the tests of everything that calls native
// code, in Node, with the addon built under ASan + UBSan. Arguments replace the list of tests.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { steps } from "./build-steps/shadow.mjs";

const COMMON = "-O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all";
const MEMORY = `${COMMON} -fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr`;
const STACKS = { UBSAN_OPTIONS: "print_stacktrace=1" };
const TESTS = ["test/native", "test/emu", "test/tensor", "test/ops", "test/quant", "test/autograd"];
// They look at the build itself, or end 200 processes that take a second each here.
const NOT = ["build", "objects", "load", "exits"].map((name) => `test/native/${name}.test.ts`);

/** The compiler's library of that name, which must come before everything else in a process that it did not link. */
function library(name) {
  const path = spawnSync(process.env.CXX || "g++", [`-print-file-name=${name}`], { encoding: "utf8" }).stdout?.trim() ?? "";
  return path.startsWith("/") && existsSync(path) ? path : undefined;
}

const { need, nativeTests, copy, buildCopy, testCopy } = steps(
  join(dirname(fileURLToPath(import.meta.url)), ".."),
  "test:sanitize",
);
need([[library("libasan.so"), "the sanitizers' libraries", "g++"]]);
nativeTests("memory", MEMORY, STACKS);
nativeTests("threads", `${COMMON} -fsanitize=thread`, STACKS);

const shadow = copy("sanitize");
buildCopy(shadow, { CXXFLAGS: MEMORY, LDFLAGS: "-fsanitize=address,undefined" });
const wanted = process.argv.slice(2);
testCopy(shadow, wanted.length > 0 ? wanted : [...TESTS, ...NOT.flatMap((path) => ["--exclude", path])], {
  ...STACKS,
  LD_PRELOAD: `${library("libasan.so")} ${library("libubsan.so")}`,
  // Leaks of the addon are counted by the tests; Node and V8 keep much until the end.
  ASAN_OPTIONS: "detect_leaks=0:allocator_may_return_null=1",
});
