// Renders hostile templates in the worker that renders chat templates, and measures each:
//   node --import tsx test/text/hostile/measure.ts [--table] [--seed 1 --count 1000]
// Needs `npm run build`. Prints a line for each template that took long, and the worst time on the processor (milliseconds) and the worst growth
// of the process (MiB, Linux) of a rendering. Every template gets a thread of its own that has rendered one ordinary conversation before.
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import type { WorkerResult } from "../../../src/text/jinja/worker.js";
import { hostileTemplate, randomFrom } from "./generator.js";
import { HOSTILE } from "./templates.js";

const { limitsFor, requestOf, startWorker }: typeof import("../../../src/text/chat-template.js") = await import(
  new URL("../../../dist/text/chat-template.js", import.meta.url).href
);

export interface Measured {
  name: string;
  milliseconds: number;
  mebibytes: number;
  outcome: string;
}

const request = requestOf({ messages: [{ role: "user", content: "hi" }] });
const memory = (field: string) =>
  Number(new RegExp(`${field}:\\s+(\\d+) kB`).exec(readFileSync("/proc/self/status", "utf8"))?.[1]) / 1024;

async function ask(worker: ReturnType<typeof startWorker>, template: string): Promise<WorkerResult> {
  worker.postMessage({ template, requests: [request], limits: [limitsFor(request)] });
  // A template that hangs the thread rejects here.
  const [[result]] = (await once(worker, "message", { signal: AbortSignal.timeout(5000) })) as [WorkerResult[]];
  return result!;
}

async function measure(name: string, template: string): Promise<Measured> {
  const worker = startWorker();
  await once(worker, "message");
  await ask(worker, "{% for m in messages %}{{ m.role }}: {{ m.content | trim }}{% endfor %}");
  // Writing 5 sets the high-water mark of the process back.
  writeFileSync("/proc/self/clear_refs", "5");
  const before = memory("VmRSS");
  const result = template.length > 256 * 1024 ? undefined : await ask(worker, template);
  const mebibytes = memory("VmHWM") - before;
  const next = await ask(worker, "ok");
  if (!("text" in next) || next.text !== "ok") throw new Error(`after ${name} nothing renders`);
  await worker.terminate();
  const outcome = result === undefined ? "size" : "text" in result ? "rendered" : (result.limit ?? result.refusedBy);
  return { name, milliseconds: result?.milliseconds ?? 0, mebibytes, outcome };
}

const { values } = parseArgs({
  options: { table: { type: "boolean" }, seed: { type: "string" }, count: { type: "string" }, json: { type: "boolean" } },
});
const jobs: [string, string][] = values.table ? [...HOSTILE] : [];
const random = randomFrom(Number(values.seed ?? 1));
for (let i = 0; i < Number(values.count ?? 0); i++) jobs.push([`generated ${i}`, hostileTemplate(random)]);
const all: Measured[] = [];
for (const [name, template] of jobs) {
  const m = await measure(name, template);
  all.push(m);
  if (!values.json && (m.milliseconds > 50 || m.mebibytes > 24))
    console.log(
      `${m.milliseconds.toFixed(1)} ms ${m.mebibytes.toFixed(1)} MiB ${m.outcome} ${name} ${values.table ? "" : template.slice(0, 400)}`,
    );
}
if (values.json) console.log(JSON.stringify(all));
else {
  const counts = new Map<string, number>();
  for (const m of all) counts.set(m.outcome, (counts.get(m.outcome) ?? 0) + 1);
  console.log(`${all.length} templates: ${[...counts].map(([outcome, n]) => `${outcome} ${n}`).join(", ")}`);
  console.log(
    `worst ${Math.max(...all.map((m) => m.milliseconds)).toFixed(1)} ms, ${Math.max(...all.map((m) => m.mebibytes)).toFixed(1)} MiB`,
  );
}
