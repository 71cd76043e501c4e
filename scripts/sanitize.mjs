#!/usr/bin/env node
// `npm run test:sanitize`: the C++ tests under ASan + UBSan + LSan and under TSan, then the tests of everything that calls native
// code, in Node, with addon and emulated device built under ASan + UBSan, and those of the emulated device again with its threads in
// other orders. Arguments replace the list of tests.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { steps } from "./build-steps/shadow.mjs";

const COMMON = "-O1 -g1 -fno-omit-frame-pointer -fno-sanitize-recover=all";
const MEMORY = `${COMMON} -fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr`;
const STACKS = { UBSAN_OPTIONS: "print_stacktrace=1" };
const TESTS = ["test/native", "test/emu", "test/tensor", "test/ops", "test/quant", "test/autograd"];
// All kernels on the emulated device, whose threads run forward elsewhere; the large tiles in test/emu/linear take a minute.
const KERNELS = ["test/native/kernels-", "test/emu/attention", "test/emu/head"];
const ORDERS = { reversed: KERNELS, "shuffled:7:3": [...KERNELS, "test/emu/linear"] };
// Ten times what a test may take elsewhere, as everything takes longer here.
const TIME = "--testTimeout=600000";
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
const environment = {
  ...STACKS,
  LD_PRELOAD: `${library("libasan.so")} ${library("libubsan.so")}`,
  // Leaks of the addon are counted by the tests; Node and V8 keep much until the end.
  ASAN_OPTIONS: "detect_leaks=0:allocator_may_return_null=1",
};
const wanted = process.argv.slice(2);
testCopy(
  shadow,
  [TIME, ...(wanted.length > 0 ? wanted : [...TESTS, ...NOT.flatMap((path) => ["--exclude", path])])],
  environment,
);
if (wanted.length === 0)
  for (const [order, tests] of Object.entries(ORDERS))
    testCopy(shadow, [TIME, ...tests], { ...environment, LOWRANK_TEST_DEVICES: "emu", LOWRANK_EMU_ORDER: order });
