/** `npm run golden -- DIR [--device cpu] [--isa avx2] [--kind K] [--json]`: runs the golden cases under DIR. */
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    device: { type: "string", default: "cpu" },
    isa: { type: "string" },
    kind: { type: "string" },
    json: { type: "boolean", default: false },
  },
});
const dir = positionals[0];
if (dir === undefined) {
  console.error("usage: npm run -s golden -- DIR [--device cpu] [--isa avx2] [--kind K] [--json]");
  process.exit(2);
}
// Read when the addon is loaded, so it must be set before the runner is imported.
if (values.isa !== undefined) process.env.LOWRANK_ISA = values.isa;
const { findCases, runCase } = await import("./runner.js");
const { readFileSync } = await import("node:fs");

const counts = { ok: 0, failed: 0, skipped: 0 };
for (const path of findCases(dir)) {
  if (values.kind !== undefined && JSON.parse(readFileSync(`${path}/case.json`, "utf8")).kind !== values.kind) continue;
  const line = await runCase(path, { device: values.device });
  const state = line.skipped ? "skipped" : line.ok ? "ok" : "failed";
  counts[state]++;
  if (values.json) console.log(JSON.stringify(line));
  else
    console.log(
      `${state.padEnd(8)} ${line.case}${line.maxError === null ? "" : `  max error ${line.maxError.toExponential(2)}`}${line.reason ? `  ${line.reason}` : ""}`,
    );
}
console.error(`${counts.ok} ok, ${counts.failed} failed, ${counts.skipped} skipped`);
process.exit(counts.failed > 0 || counts.ok + counts.failed + counts.skipped === 0 ? 1 : 0);
