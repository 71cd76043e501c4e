/**
 * Every allocation of the addon's C++ code fails once, one after the other: in each export, in opening a device, in loading. Each time
 * the call ends in its result or in OUT_OF_MEMORY, nothing is left, and the stream goes on. Needs new.cc preloaded; prints how many
 * allocations of each failed.
 */
import { openSync, readSync, writeSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { loadAddon } from "../../../src/native/load.js";
import type { NativeError } from "../../../src/native/surface.js";
import { KERNELS, OTHERS } from "../misuse/recipes.js";
import { World } from "../misuse/world.js";

const MOST = 200;
const orders = openSync(process.env.LOWRANK_TEST_NEW!, "r+");
const addon = loadAddon();
const d = addon.openDevice("cpu");
const failed: Record<string, number> = {};

function order(n: number): void {
  writeSync(orders, BigInt64Array.of(BigInt(n), 0n), 0, 16, 0);
}

/** Ends the order; whether it was carried out. */
function carriedOut(): boolean {
  const words = new BigInt64Array(2);
  readSync(orders, words, 0, 16, 0);
  order(0);
  return words[1]! > 0n;
}

function check(what: string, error: unknown): void {
  const { code, op, message } = error as NativeError;
  // What the recipe made wrong itself: INVALID, and DEVICE for a plugin that is none.
  const wrong = what === "openPlugin" ? "DEVICE" : "INVALID";
  if (!["OUT_OF_MEMORY", "INVALID", wrong].includes(code) || typeof op !== "string")
    throw new Error(`${what}: ${message}`, { cause: error });
}

/** Makes the first, second, … allocation of `body` fail until there are no more. */
async function sweep(what: string, prepare: () => { body: () => unknown; end?: () => void }): Promise<void> {
  failed[what] ??= 0;
  for (let n = 1; ; n++) {
    if (n > MOST) throw new Error(`${what}: more than ${MOST} allocations`);
    const before = addon.memory(d);
    const { body, end } = prepare();
    order(n);
    try {
      const result = body();
      if (result instanceof Promise) await result;
    } catch (error) {
      check(what, error);
    }
    // What the stream does of it runs under the same order.
    await (async () => addon.synchronize(d))().catch((error) => check(what, error));
    const last = !carriedOut();
    await addon.synchronize(d).catch((error) => check(what, error));
    end?.();
    const after = addon.memory(d);
    const bytes = after.live + after.host - before.live - before.host;
    if (bytes !== 0 || after.tensors !== before.tensors)
      throw new Error(`${what}: ${bytes} bytes and ${after.tensors - before.tensors} tensors are left`);
    if (last) return;
    failed[what]++;
  }
}

const exports = { ...addon, ...addon.kernels } as unknown as Record<string, (...args: unknown[]) => unknown>;
for (const [name, recipe] of [...Object.entries(KERNELS), ...Object.entries(OTHERS)])
  for (let seed = 1; seed <= 3; seed++)
    await sweep(name, () => {
      const w = new World(addon, d, seed);
      const args = name in KERNELS ? [d, ...recipe(w)] : recipe(w);
      return {
        body: () => {
          const result = exports[name]!(...args);
          if (/^(alloc|allocHost|view)$/.test(name)) addon.free(result as number);
          if (/^weight/.test(name)) addon.freeWeight(result as number);
          if (name === "record") addon.freeRecording(result as number);
          return result;
        },
        end: () => w.dispose(),
      };
    });

addon.failAllocation(0); // one of the exports

// A sentence too long for an error's own text: it is made on an I/O thread and once more in JavaScript's.
await sweep("a file that is absent", () => {
  const t = addon.alloc(d, 4, [4]);
  return { body: () => addon.readFile(t, 0, `/${"absent/".repeat(60)}`, 0, 4), end: () => addon.free(t) };
});

await sweep("a device", () => ({ body: () => addon.openDevice("cpu:scalar:3") }));

const path = Object.values(process.report.getReport() as { sharedObjects: string[] })
  .flat()
  .find((file) => String(file).endsWith("lowrank.node"));
await sweep("an environment", () => ({
  body: () =>
    new Promise((resolve, reject) => {
      const worker = new Worker(`const a = require(${JSON.stringify(path)}); a.openDevice("cpu");`, { eval: true });
      worker.once("error", reject).once("exit", resolve);
    }),
}));
console.log(JSON.stringify(failed));
