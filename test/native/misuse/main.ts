/**
 * Seeded misuse of every export: `node --import tsx test/native/misuse/main.ts --calls 100000 --seed 1 [--device cpu:avx2] [--log FILE] [--each]`.
 * Every call ends in a result or a typed error, now or at the next wait, and in the end nothing is left. The log holds each call before it
 * is made, so that the last one is known when the process dies; `--each` waits after every call, so that it is also the guilty one.
 */
import { closeSync, openSync, writeSync } from "node:fs";
import { parseArgs } from "node:util";
import { Worker } from "node:worker_threads";
import { loadAddon } from "../../../src/native/load.js";
import type { NativeError } from "../../../src/native/surface.js";
import { anyNumber, anyShape, anything, anyView, SENTINEL } from "./hostile.js";
import { KERNELS, OTHERS } from "./recipes.js";
import { type Export, exportsOf } from "./surface.js";
import { World } from "./world.js";

const { values: options } = parseArgs({
  options: {
    calls: { type: "string", default: "20000" },
    seed: { type: "string", default: "1" },
    device: { type: "string", default: "cpu" },
    log: { type: "string" },
    each: { type: "boolean", default: false },
  },
});
const CODES = ["INVALID", "OUT_OF_MEMORY", "UNSUPPORTED", "DEVICE", "DISPOSED"];
const WAIT_EVERY = 30;
const MAKES_HANDLES = /^(alloc|allocHost|view|weight.*|record)$/;

const addon = loadAddon();
const d = addon.openDevice(options.device);
const log = options.log === undefined ? undefined : openSync(options.log, "w");
const w = new World(addon, d, Number(options.seed));
const list = exportsOf();
const counts = { calls: 0, refused: 0, rejected: 0, done: 0 };
let pending: Promise<void>[] = [];
let last = "";

/** What native code may throw: an error of its own, or what the caller's getter threw. */
function typed(error: unknown): boolean {
  if (error === SENTINEL) return true;
  const { code, op, message, needed, free } = error as NativeError;
  if (!(error instanceof Error) || !CODES.includes(code) || typeof op !== "string" || !message.startsWith(`[${op}] `))
    return false;
  return code !== "OUT_OF_MEMORY" || (typeof needed === "number" && typeof free === "number");
}

function wrong(what: string, error: unknown): never {
  throw new Error(`seed ${options.seed}, call ${counts.calls}: ${last}\n${what}`, { cause: error });
}

/** The bytes of a view; none where its buffer was detached or shrank under it. */
function bytesOf(view: ArrayBufferView): Uint8Array {
  try {
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  } catch {
    return new Uint8Array(0);
  }
}

/** One argument instead of the right one. */
function replaced(type: string, right: unknown): unknown {
  if (w.chance(0.3)) return anything(w);
  if (type.endsWith("Handle")) return w.otherTensor();
  if (type === "number") return w.chance(0.2) ? w.otherTensor() : anyNumber(w);
  if (type === "Float64Array" && right instanceof Float64Array && bytesOf(right).length > 0) return spoiled(right);
  if (type === "readonly number[]") return anyShape(w);
  if (type === "ArrayBufferView") return anyView(w, right instanceof Float32Array ? right.byteLength : undefined);
  return anything(w);
}

/** Words with one of them changed, fewer, more, or in memory of another kind. */
function spoiled(right: Float64Array): unknown {
  const words = Float64Array.from(right);
  switch (w.below(8)) {
    case 0:
      return words.subarray(0, w.below(words.length + 1));
    case 1:
      return Float64Array.of(...words, anyNumber(w));
    case 2: {
      const shared = new Float64Array(new SharedArrayBuffer(8 * words.length));
      shared.set(words);
      return shared;
    }
    case 3:
      return anyView(w, 8 * words.length);
    case 4:
      words[w.below(words.length)] = anyNumber(w);
      return words;
    default: {
      // A handle where there is one, mostly: those are large.
      const handles = [...words.keys()].filter((i) => words[i]! > 2 ** 20);
      words[handles.length > 0 ? w.of(handles) : 0] = w.otherTensor();
      return words;
    }
  }
}

function argumentsOf(target: Export): unknown[] {
  const kernel = target.name.startsWith("kernels.");
  const recipe = kernel ? KERNELS[target.name.slice("kernels.".length)] : OTHERS[target.name];
  const args = recipe === undefined ? target.parameters.map(() => anything(w)) : [...(kernel ? [w.d] : []), ...recipe(w)];
  if (w.chance(0.25)) return args;
  for (let changes = w.of([1, 1, 1, 2, 3]); changes > 0 && args.length > 0; changes--) {
    const i = w.below(args.length);
    args[i] = replaced(target.parameters[i]?.type ?? "any", args[i]);
  }
  if (w.chance(0.08)) args.length = w.below(args.length + 1);
  else if (w.chance(0.04)) args.push(...[anything(w), anything(w)].slice(w.below(2)));
  return args;
}

function describe(value: unknown): string {
  try {
    if (ArrayBuffer.isView(value))
      return `${value.constructor.name}(${value.byteLength})[${[...new Uint8Array(0), ...(value instanceof Float64Array ? value : [])]}]`;
    return typeof value === "bigint" ? `${value}n` : typeof value === "object" ? "{…}" : String(value).slice(0, 60);
  } catch {
    return "?";
  }
}

function call(target: Export): void {
  const [owner, name] = target.name.startsWith("kernels.")
    ? [addon.kernels, target.name.slice("kernels.".length)]
    : [addon, target.name];
  const run = (owner as unknown as Record<string, (...args: unknown[]) => unknown>)[name]!;
  const args = argumentsOf(target);
  // A reservation as large as the disk would take it from everybody else.
  if (target.name === "allocateFile" && typeof args[1] === "number" && args[1] > 2 ** 20) args[0] = w.folder;
  last = `${target.name}(${args.map(describe).join(", ")})`;
  if (log !== undefined) writeSync(log, `${counts.calls} ${last}\n`);
  counts.calls++;
  let result: unknown;
  try {
    result =
      w.chance(0.02) && !MAKES_HANDLES.test(target.name)
        ? Reflect.construct(run, args)
        : w.chance(0.1)
          ? run.apply(w.of([undefined, null, 1, {}]), args)
          : run(...args);
  } catch (error) {
    // What a recorded function throws comes through.
    const own = target.name === "record" && error instanceof TypeError;
    if (!own && !typed(error)) wrong("threw what is no error of native code", error);
    counts.refused++;
    return;
  }
  counts.done++;
  const at = last;
  if (result instanceof Promise)
    pending.push(
      result.then(
        () => {},
        (error) => {
          last = at;
          if (!typed(error)) wrong("rejected with what is no error of native code", error);
          counts.rejected++;
        },
      ),
    );
  else if (typeof result === "number" && (target.name === "alloc" || target.name === "allocHost" || target.name === "view"))
    w.keep({ handle: result, dtype: 0, bytes: 0 });
  else if (typeof result === "number" && target.name === "record") w.keepRecording(result);
  else if (typeof result === "number" && MAKES_HANDLES.test(target.name)) w.weights.push(result);
  // While what was enqueued runs: its arguments change, its tensors go.
  for (const arg of args)
    if (ArrayBuffer.isView(arg) && bytesOf(arg).length > 0 && w.chance(0.3)) bytesOf(arg).fill(w.below(256));
  if (w.chance(0.2)) w.drop();
}

async function wait(): Promise<void> {
  addon.failAllocation(0);
  await Promise.all(pending);
  pending = [];
  await addon.synchronize(d).catch((error) => {
    if (!typed(error)) wrong("the stream reported what is no error of native code", error);
    counts.rejected++;
  });
}

/** Bytes in use, of the device and of the host. */
const bytesUsed = () => addon.memory(d).live + addon.memory(d).host;
const before = bytesUsed();
/** Handles of another environment, which stays until the end. */
const worker = new Worker(
  `const { workerData: { path, device }, parentPort } = require("node:worker_threads");
   const addon = require(path), d = addon.openDevice(device);
   const made = Array.from({ length: 40 }, () => addon.alloc(d, 0, [4]));
   parentPort.postMessage(made);
   parentPort.once("message", () => { for (const t of made) addon.free(t); process.exit(0); });`,
  {
    eval: true,
    workerData: {
      path: Object.values(process.report.getReport() as { sharedObjects: string[] })
        .flat()
        .find((path) => String(path).endsWith("lowrank.node")),
      device: options.device,
    },
  },
);
w.wrong.push(...(await new Promise<number[]>((resolve, reject) => worker.once("message", resolve).once("error", reject))));
// Of another device: right in every other respect.
const elsewhere = addon.openDevice("cpu:scalar:1");
if (elsewhere !== d) for (let i = 0; i < 10; i++) w.wrong.push(addon.alloc(elsewhere, 0, [4]));

while (counts.calls < Number(options.calls)) {
  try {
    call(w.of(list));
  } catch (error) {
    // A recipe's own preparations fail too while an allocation is made to fail.
    if (!typed(error)) throw error;
  }
  if (options.each || counts.calls % WAIT_EVERY === 0) await wait();
}
await wait();
w.dispose();
const left = new Promise((resolve) => worker.once("exit", resolve));
worker.postMessage("end");
if ((await left) !== 0) throw new Error("another environment's tensors were harmed");
await wait();
const [after, { tensors }] = [bytesUsed(), addon.memory(d)];
if (after !== before || tensors !== 0)
  throw new Error(`seed ${options.seed}: ${after - before} bytes and ${tensors} tensors are left`);
if (log !== undefined) closeSync(log);
console.log(JSON.stringify({ seed: Number(options.seed), device: options.device, ...counts }));
