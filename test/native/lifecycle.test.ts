import { availableParallelism } from "node:os";
import { describe, expect, it } from "vitest";
import { addon, addonPath, cpu, runChild } from "./helpers.js";

const clean = { code: 0, signal: null, err: "" };

describe("the process", () => {
  it("ends by itself when nothing is awaited, with tensors and queued work left", async () => {
    const script = "const t = a.alloc(d, 0, [1 << 24]); for (let i = 0; i < 20; i++) a.kernels.prefetch(d, 0, t, t);";
    expect(await runChild(script)).toMatchObject(clean);
  });

  it("stays alive while a read is pending", async () => {
    const script =
      "const t = a.alloc(d, 0, [1 << 24]); for (let i = 0; i < 20; i++) a.kernels.prefetch(d, 0, t, t); a.read(t).then((b) => console.log(b.byteLength));";
    expect(await runChild(script)).toMatchObject({ ...clean, out: String(4 << 24) });
  });

  it("may exit with reads pending", async () => {
    const script =
      "const t = a.alloc(d, 0, [1 << 24]); for (let i = 0; i < 20; i++) { a.kernels.prefetch(d, 0, t, t); a.read(t); } setTimeout(() => process.exit(0), 5);";
    for (let i = 0; i < 3; i++) expect(await runChild(script)).toMatchObject(clean);
  });
});

describe("worker threads", () => {
  const worker = (body: string) =>
    `new (require("node:worker_threads").Worker)(PRELUDE + ${JSON.stringify(body)}, { eval: true })`;

  it("share the device, and what they leave behind is given back", async () => {
    const script = `
      const before = a.memory(d).live;
      const w = ${worker("const t = a.alloc(d, 0, [1000]); a.upload(t, new Float32Array(1000).fill(7)); a.read(t).then((b) => require('node:worker_threads').parentPort.postMessage([new Float32Array(b)[999], a.memory(d).live, a.memory(d).tensors]));")};
      w.on("message", (m) => console.log(JSON.stringify(m)));
      w.on("exit", () => console.log(JSON.stringify([a.memory(d).live - before, a.memory(d).tensors])));`;
    const child = await runChild(script);
    expect(child).toMatchObject(clean);
    expect(child.out.split("\n").map((line) => JSON.parse(line))).toEqual([
      [7, 4000, 1],
      [0, 0],
    ]);
  });

  it("can be terminated in the midst of work, again and again", async () => {
    const body =
      "const t = a.alloc(d, 0, [1 << 20]); const loop = () => { for (let i = 0; i < 50; i++) { a.kernels.prefetch(d, 0, t, t); a.read(t); } a.read(t).then(loop); }; loop();";
    const script = `
      const mine = a.alloc(d, 0, [1000]); a.upload(mine, new Float32Array(1000).fill(3));
      (async () => {
        for (let i = 0; i < 8; i++) {
          const w = ${worker(body)};
          await new Promise((r) => w.on("online", r));
          await new Promise((r) => setTimeout(r, 10 + 5 * i));
          await w.terminate();
          if (new Float32Array(await a.read(mine)).some((x) => x !== 3)) throw new Error("damaged");
        }
        console.log(a.memory(d).live, a.memory(d).tensors);
      })();`;
    expect(await runChild(script)).toMatchObject({ ...clean, out: "4000 1" });
  });

  // What native code sees when a worker is terminated while it runs: every call that makes something in JavaScript fails.
  it.each([
    ["wait", "a.synchronize(d)"],
    ["read", "a.read(t)"],
    ["read a file", "a.readFile(t, 0, path, 0, 4)"],
    ["run an op", "a.kernels.fill(d, t, 1)"],
    ["run a wrong op", "a.kernels.fill(d, t)"],
    ["allocate", "a.alloc(d, 0, [7])"],
    ["ask", "[a.memory(d), a.deviceInfo(d), a.availableIsas(), a.profile(d, false)]"],
  ])("may %s when they have ended already", async (_, call) => {
    const body = `const path = ${JSON.stringify(addonPath)}, t = a.alloc(d, 0, [1]), { failAllocation } = a; process.reallyExit(7); try { ${call} } catch {} failAllocation(1);`;
    const script = `
      const before = a.memory(d).live;
      ${worker(body)}.on("exit", async (code) => {
        let reached; try { a.alloc(d, 0, [1]) } catch (error) { reached = error.code }
        await a.synchronize(d);
        console.log(code, reached, a.memory(d).live - before, a.memory(d).tensors);
      });`;
    expect(await runChild(script)).toMatchObject({ ...clean, out: "7 OUT_OF_MEMORY 0 0" });
  });

  it("may load the addon when they have ended already", async () => {
    const body = `const module = { exports: {} }; process.reallyExit(7); process.dlopen(module, ${JSON.stringify(addonPath)});`;
    const script = `
      const w = new (require("node:worker_threads").Worker)(${JSON.stringify(body)}, { eval: true });
      w.on("error", (error) => console.log(error)).on("exit", (code) => a.synchronize(d).then(() => console.log(code, a.memory(d).tensors)));`;
    expect(await runChild(script)).toMatchObject({ ...clean, out: "7 0" });
  });

  it("do not see each other's errors or tensors", async () => {
    const script = `
      const w = ${worker("require('node:worker_threads').parentPort.once('message', (t) => { let code; try { a.free(t) } catch (e) { code = e.code } const x = a.alloc(d, 0, [1]), y = a.alloc(d, 0, [2]); a.kernels.prefetch(d, 0, x, y); a.synchronize(d).then(() => 'fine', (e) => e.op).then((s) => require('node:worker_threads').parentPort.postMessage([code, s])) })")};
      const t = a.alloc(d, 0, [1]);
      w.on("message", (m) => a.synchronize(d).then(() => console.log(JSON.stringify(m))));
      w.postMessage(t);`;
    expect(await runChild(script)).toMatchObject({ ...clean, out: '["INVALID","prefetch"]' });
  });
});

describe("the environment's variables", () => {
  it("choose the kernels: LOWRANK_ISA", async () => {
    for (const isa of addon.availableIsas()) {
      expect(await runChild("console.log(a.deviceInfo(d).isa)", { LOWRANK_ISA: isa })).toMatchObject({ ...clean, out: isa });
    }
    expect(addon.availableIsas()[0]).toBe("scalar");
    expect((await runChild("console.log(a.deviceInfo(d).isa)", { LOWRANK_ISA: "" })).out).toBe(addon.availableIsas().at(-1));
    expect((await runChild("", { LOWRANK_ISA: "sse9" })).err).toContain('this machine cannot run the kernels "sse9"');
  });

  it("set the number of threads: LOWRANK_THREADS", async () => {
    for (const threads of ["1", "2", "5"]) {
      expect((await runChild("console.log(a.deviceInfo(d).threads)", { LOWRANK_THREADS: threads })).out).toBe(threads);
    }
    for (const bad of ["0", "-1", "two", "1000"]) {
      expect((await runChild("", { LOWRANK_THREADS: bad })).err).toContain("LOWRANK_THREADS must be a number from 1 to 256");
    }
    if (process.env.LOWRANK_THREADS === undefined) {
      expect(addon.deviceInfo(cpu).threads).toBeLessThanOrEqual(availableParallelism());
    }
  });
});
