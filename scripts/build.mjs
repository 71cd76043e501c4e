#!/usr/bin/env node
// Builds what is not built: the native addon (build/Release), the emulated device (build/emu) and the library (dist). `--native` stops
// before the library.
import { spawnSync } from "node:child_process";
import { chmodSync, copyFileSync, existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { emulatorIsCurrent, emulatorMakefile } from "./build-steps/emulator.mjs";
import { hashFiles, stampIs, walk } from "./build-steps/files.mjs";
import { withLock } from "./build-steps/lock.mjs";
import { missingTools, nodeDir, packageScript } from "./build-steps/tools.mjs";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const addon = join(root, "build/Release/lowrank.node");
const nativeStamp = join(root, "build/lowrank.hash");
const distStamp = join(root, "dist/.hash");
const onlyNative = process.argv.includes("--native");

const say = (text) => process.stderr.write(`build: ${text}\n`);

function fail(text) {
  say(text);
  process.exitCode = 1;
  return false;
}

function nativeHash() {
  const sources = walk(root, "native", (path) => !/^native\/(test|cuda|emu)\//.test(path) && /\.(h|cc|c|json)$/.test(path));
  const words = [process.arch, process.platform, process.env.CXX ?? "", process.env.CXXFLAGS ?? "", process.versions.modules];
  return hashFiles(root, ["binding.gyp", ...sources], words);
}

function distHash() {
  return hashFiles(root, ["tsconfig.json", "package.json", ...walk(root, "src")]);
}

const nativeIsCurrent = () => existsSync(addon) && stampIs(nativeStamp, nativeHash());
const distIsCurrent = () => stampIs(distStamp, distHash());

/** Runs a script of node_modules; its whole output appears only when it fails. */
function run(what, script, args) {
  const begin = Date.now();
  const child = spawnSync(process.execPath, [script, ...args], { cwd: root, encoding: "utf8", maxBuffer: 1 << 28 });
  if (child.status !== 0) {
    process.stderr.write(child.stdout + child.stderr);
    return fail(`${what} failed: the compiler's words are above`);
  }
  say(`${what}: done in ${((Date.now() - begin) / 1000).toFixed(1)} s`);
  return true;
}

function buildNative() {
  const hash = nativeHash();
  if (existsSync(addon) && stampIs(nativeStamp, hash)) return true;
  const { problems, packages } = missingTools();
  if (problems.length > 0) {
    const remedy = packages.length > 0 ? `\n  apt-get install -y ${packages.join(" ")}` : "";
    return fail(`compiling the native code needs ${problems.join(", ")}.${remedy}`);
  }
  const gyp = packageScript(root, "node-gyp/bin/node-gyp.js");
  if (gyp === undefined) return fail("the packages are not installed: run npm ci");
  say("compiling the native code (under a minute, once)");
  const headers = nodeDir();
  const args = ["configure", "build", "-j", "2", "--loglevel=warn", ...(headers === undefined ? [] : [`--nodedir=${headers}`])];
  if (!run("native code", gyp, args)) return false;
  writeFileSync(nativeStamp, hash);
  return true;
}

/** The emulated device and the program that tests the emulator: the CUDA kernels, compiled for the host. */
function buildEmulator() {
  if (emulatorIsCurrent(root)) return true;
  say("compiling the CUDA kernels for the emulated device (half a minute, once)");
  const begin = Date.now();
  const child = spawnSync("make", ["-s", "-j2", "-f", emulatorMakefile(root)], {
    cwd: root,
    encoding: "utf8",
    maxBuffer: 1 << 28,
  });
  if (child.status !== 0) {
    process.stderr.write(`${child.stdout ?? ""}${child.stderr ?? child.error}`);
    return fail("the emulated device failed: the compiler's words are above");
  }
  say(`emulated device: done in ${((Date.now() - begin) / 1000).toFixed(1)} s`);
  return true;
}

function buildDist() {
  const hash = distHash();
  if (stampIs(distStamp, hash)) return true;
  const tsc = packageScript(root, "typescript/bin/tsc");
  if (tsc === undefined) return fail("the packages are not installed: run npm ci");
  rmSync(distStamp, { force: true });
  // Beside what it describes, so that neither outlives the other.
  if (!run("library", tsc, ["-p", "tsconfig.json", "--incremental", "--tsBuildInfoFile", "dist/.tsbuildinfo"])) return false;
  const sources = walk(root, "src");
  for (const file of sources.filter((path) => !path.endsWith(".ts"))) {
    const target = join(root, file.replace(/^src/, "dist"));
    mkdirSync(dirname(target), { recursive: true });
    copyFileSync(join(root, file), target);
  }
  const made = new Set(sources.map((path) => path.replace(/^src/, "dist").replace(/\.ts$/, "")));
  for (const file of walk(root, "dist"))
    if (file !== "dist/.tsbuildinfo" && !made.has(file) && !made.has(file.replace(/(\.d)?\.ts$|\.js$/, "")))
      rmSync(join(root, file));
  const cli = join(root, "dist/cli/main.js");
  if (existsSync(cli)) chmodSync(cli, 0o755);
  writeFileSync(distStamp, hash);
  return true;
}

if (!nativeIsCurrent() || !emulatorIsCurrent(root) || !(onlyNative || distIsCurrent())) {
  withLock(join(root, ".cache/build.lock"), say, () => buildNative() && buildEmulator() && (onlyNative || buildDist()));
}
