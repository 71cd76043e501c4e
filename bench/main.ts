// `npm run bench -- ops|step|generate|adapters|model [options]`: runs `lowrank bench` of this checkout and keeps what it measured in
// bench/results, with machine, commit and versions. `bench model` measures nothing, so nothing of it is kept.
import { spawn } from "node:child_process";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { circumstances, type HistoryRow, record } from "./history.js";

const args = process.argv.slice(2);
const cli = join(import.meta.dirname, "../dist/cli/main.js");
const child = spawn(process.execPath, [cli, "bench", ...args], { stdio: ["inherit", "pipe", "inherit"] });
const ended = new Promise<number>((resolve) => child.once("exit", (status) => resolve(status ?? 1)));
const common = circumstances(args);
const rows: HistoryRow[] = [];
for await (const line of createInterface({ input: child.stdout })) {
  console.log(line);
  if (line.startsWith("{")) rows.push({ ...(JSON.parse(line) as { kind: string }), ...common });
}
const code = await ended;
const bench = args[0];
if (code === 0 && rows.length > 0 && bench !== undefined && bench !== "model") record(bench, rows);
process.exitCode = code;
