import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadAddon } from "../../src/native/load.js";
import type { NativeError } from "../../src/native/surface.js";

export const addon = loadAddon();
export const cpu = addon.openDevice("cpu");

const root = fileURLToPath(new URL("../..", import.meta.url));
export const addonPath = (createRequire(import.meta.url)("node-gyp-build") as { path(folder: string): string }).path(root);

/** Compiles a C++ file beside the tests; the path of the shared library, in a folder of its own. */
export function sharedLibrary(source: string): string {
  const library = join(mkdtempSync(join(tmpdir(), "lowrank-native-")), "library.so");
  const args = ["-std=c++17", "-O1", "-shared", "-fPIC", "-o", library, fileURLToPath(new URL(source, import.meta.url)), "-ldl"];
  const { status, stderr } = spawnSync(process.env.CXX ?? "g++", args, { encoding: "utf8" });
  if (status !== 0) throw new Error(`cannot compile ${source}: ${stderr}`);
  return library;
}

export const F32 = 0;
export const BF16 = 1;
export const F16 = 2;
export const I32 = 3;
export const U8 = 4;

export function upload(values: readonly number[], shape: readonly number[] = [values.length]): number {
  const t = addon.alloc(cpu, F32, shape);
  addon.upload(t, new Float32Array(values));
  return t;
}

export async function readFloats(t: number): Promise<number[]> {
  return [...new Float32Array(await addon.read(t))];
}

/** The error that the body throws; fails when it throws none. */
export function thrown(body: () => unknown): NativeError {
  try {
    body();
  } catch (error) {
    return error as NativeError;
  }
  throw new Error("nothing was thrown");
}

/** Starts with the addon as `a` and, if it opens, the CPU as `d`. */
const PRELUDE = `const a = require(${JSON.stringify(addonPath)}); const d = a.openDevice("cpu");`;

export interface Child {
  code: number | null;
  signal: string | null;
  out: string;
  err: string;
}

/** Runs JavaScript in another process, with `a` (addon), `d` (device) and `PRELUDE` (the text that makes them). */
export function runChild(script: string, env: Record<string, string> = {}): Promise<Child> {
  const code = `const PRELUDE = ${JSON.stringify(PRELUDE)}; ${PRELUDE} ${script}`;
  const child = spawn(process.execPath, ["-e", code], { env: { ...process.env, ...env } });
  let out = "";
  let err = "";
  child.stdout.on("data", (data) => (out += data));
  child.stderr.on("data", (data) => (err += data));
  return new Promise((resolve) => child.on("close", (code, signal) => resolve({ code, signal, out: out.trim(), err })));
}
