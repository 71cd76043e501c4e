/** What the system refuses: threads, host memory, device memory. Each is a typed error, and what asked for it stays usable. */
import { execFileSync, spawnSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { addon, cpu, F32, runChild, sharedLibrary, thrown, U8 } from "./helpers.js";
import { KERNELS } from "./misuse/recipes.js";
import { World } from "./misuse/world.js";

/** In a child: from now on no more address space than `more` bytes above what it has. */
const LIMIT = `const limit = (more) => {
  const used = Number(/VmSize:\\s+(\\d+)/.exec(require("node:fs").readFileSync("/proc/self/status", "utf8"))[1]) * 1024;
  require("node:child_process").execFileSync("prlimit", ["--pid", process.pid, "--as=" + (used + more) + ":"]);
};`;
// AddressSanitizer has taken 20 TB of address space already, and its own threads need some.
const sanitized = (process.env.LD_PRELOAD ?? "").includes("libasan");

describe.skipIf(sanitized)("under a limit of address space", () => {
  it("a device whose threads are refused is an error; fewer threads work", async () => {
    const child = await runChild(`${LIMIT} limit(100 << 20);
      let error; try { a.openDevice("cpu:scalar:200") } catch (e) { error = e }
      const few = a.openDevice("cpu:scalar:2"), t = a.alloc(few, 0, [3]);
      a.kernels.fill(few, t, 7);
      a.read(t).then((b) => console.log(JSON.stringify([error.code, error.op, error.message, new Float32Array(b)[2]])));`);
    expect(child).toMatchObject({ code: 0, signal: null, err: "" });
    expect(JSON.parse(child.out)).toEqual([
      "DEVICE",
      "openDevice",
      "[openDevice] the system grants no 201 threads: Resource temporarily unavailable",
      7,
    ]);
  });

  it("a result for which there is no ArrayBuffer rejects, and so does one without a host copy", async () => {
    const child = await runChild(`${LIMIT}
      const t = a.alloc(d, 4, [300 << 20]);
      const first = a.read(t); // has its host copy
      limit(200 << 20);
      let early; try { a.read(t) } catch (e) { early = e }
      (async () => {
        const late = await first.catch((e) => e);
        const small = a.alloc(d, 4, [3]);
        console.log(JSON.stringify([late.code, late.op, late.needed, early.code, early.op, early.needed, (await a.read(small)).byteLength]));
      })();`);
    expect(child).toMatchObject({ code: 0, signal: null, err: "" });
    const bytes = 300 << 20;
    expect(JSON.parse(child.out)).toEqual(["OUT_OF_MEMORY", "read", bytes, "OUT_OF_MEMORY", "read", bytes, 3]);
  });
});

describe("an allocation that fails", () => {
  it("at any place of any op is OUT_OF_MEMORY, leaves nothing behind and the stream at work", async () => {
    const failed = new Set<string>();
    for (const [name, recipe] of Object.entries(KERNELS))
      for (let seed = 1; seed <= 8; seed++) {
        const before = addon.memory(cpu);
        const w = new World(addon, cpu, seed);
        const args = recipe(w);
        addon.trim(cpu); // scratch as well, so that it is allocated again
        addon.failAllocation(1);
        try {
          (addon.kernels as unknown as Record<string, (...a: unknown[]) => void>)[name]!(cpu, ...args);
        } catch (error) {
          const { code } = error as { code: string };
          expect(["OUT_OF_MEMORY", "INVALID"], name).toContain(code);
          if (code === "OUT_OF_MEMORY") failed.add(name);
        }
        addon.failAllocation(0);
        await addon.synchronize(cpu).catch(() => {});
        w.dispose();
        expect(addon.memory(cpu), name).toMatchObject({ live: before.live, tensors: before.tensors });
      }
    const withScratch = "rmsNormGrad linear linearGrad linearDw attention attentionGrad tokenLogprob tokenLogprobGrad adafactor";
    expect([...failed]).toEqual(withScratch.split(" "));
    const t = addon.alloc(cpu, F32, [4]);
    for (const call of [() => addon.alloc(cpu, F32, [4]), () => addon.upload(t, new Float32Array(4)), () => void addon.read(t)]) {
      addon.failAllocation(1);
      expect(thrown(call)).toMatchObject({ code: "OUT_OF_MEMORY", needed: 16 });
      call();
    }
    expect((await addon.read(t)).byteLength).toBe(16);
    addon.free(t);
  });
});

// AddressSanitizer's own `operator new` comes first.
describe.skipIf(sanitized)("`operator new`", () => {
  it("may fail anywhere in any export, in opening a device and in loading: a typed error, no abort, nothing left", () => {
    const library = sharedLibrary("scarce/new.cc");
    const orders = join(dirname(library), "orders");
    writeFileSync(orders, new Uint8Array(16));
    const main = fileURLToPath(new URL("scarce/main.ts", import.meta.url));
    const child = spawnSync(process.execPath, ["--import", "tsx", main], {
      encoding: "utf8",
      env: { ...process.env, LD_PRELOAD: library, LOWRANK_TEST_NEW: orders },
      timeout: 300_000,
    });
    rmSync(dirname(library), { recursive: true });
    expect(child).toMatchObject({ status: 0, signal: null, stderr: "" });
    const failed = JSON.parse(child.stdout) as Record<string, number>;
    // One for the wait that follows each is the least.
    for (const [name, count] of Object.entries(failed)) expect(count, name).toBeGreaterThan(2);
    expect(Object.keys(failed)).toEqual(
      expect.arrayContaining([...Object.keys(addon.kernels), "a file that is absent", "a device", "an environment"]),
    );
    // An op with its arguments, and more for the lists of a group.
    expect(failed.linear).toBeGreaterThan(failed.add!);
  }, 300_000);
});

describe("a tensor that a file is being read into", () => {
  it("is refused to everything else until it is there", async () => {
    const path = execFileSync("mktemp", { encoding: "utf8" }).trim();
    const t = addon.alloc(cpu, U8, [4]);
    const other = addon.alloc(cpu, U8, [4]);
    const big = addon.alloc(cpu, F32, [1 << 24]);
    addon.kernels.random(cpu, big, 1, 0, 1, 1n); // takes a while
    addon.kernels.copy(cpu, t, t);
    const filled = addon.readFile(t, 0, path, 0, 0);
    for (const use of [
      () => addon.kernels.copy(cpu, other, t),
      () => addon.upload(t, new Uint8Array(4)),
      () => void addon.read(t),
    ])
      expect(thrown(use).message).toContain("a file is being read into this tensor");
    await filled;
    addon.kernels.copy(cpu, other, t);
    await addon.read(other);
    for (const handle of [t, other, big]) addon.free(handle);
    execFileSync("rm", [path]);
  });
});
