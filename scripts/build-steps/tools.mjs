// What the build needs on the machine; everything missing is named in one message.
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

function version(command) {
  const run = spawnSync(command, ["--version"], { encoding: "utf8" });
  return run.error || run.status !== 0 ? undefined : run.stdout;
}

export function nodeIsSupported(text = process.versions.node) {
  const [major, minor] = text.split(".").map(Number);
  return (major === 20 && minor >= 19) || (major === 22 && minor >= 12) || major > 22;
}

/** Sentences about what is missing, and the packages that bring it. */
export function missingTools() {
  const problems = [];
  const packages = [];
  if (!nodeIsSupported()) problems.push(`Node ^20.19 or >=22.12 (this is ${process.versions.node})`);
  const compiler = process.env.CXX || "g++";
  const dump = spawnSync(compiler, ["-dumpversion"], { encoding: "utf8" });
  const clang = /clang/.test(compiler);
  if (dump.error || dump.status !== 0) {
    problems.push(`a C++17 compiler (${compiler} does not run)`);
    packages.push("g++");
  } else if (!clang && Number.parseInt(dump.stdout, 10) < 11) {
    problems.push(`g++ 11 or newer (${compiler} is ${dump.stdout.trim()})`);
    packages.push("g++");
  }
  for (const tool of ["make", "python3", "git"]) {
    if (version(tool) !== undefined) continue;
    problems.push(tool);
    packages.push(tool);
  }
  return { problems, packages };
}

/** Where the headers lie beside this node binary, so that node-gyp needs no network. */
export function nodeDir() {
  const prefix = dirname(dirname(process.execPath));
  const needed = ["node_api.h", "common.gypi"];
  return needed.every((file) => existsSync(join(prefix, "include/node", file))) ? prefix : undefined;
}

/** The script of a package's command, or undefined when `npm ci` has not run. */
export function packageScript(root, specifier) {
  try {
    return createRequire(join(root, "package.json")).resolve(specifier);
  } catch {
    return undefined;
  }
}
