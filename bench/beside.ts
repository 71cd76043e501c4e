// `npm run bench:beside -- --model FOLDER [--rounds 3]`: a training step and decoding alone, and beside a busy loop that is kept on the
// first core (`taskset`), in turns. Of `cores` the fair share is then cores - 1/2; `kept` is the speed that is left, over that share.
// For idle cores.
import { spawn } from "node:child_process";
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import { quantiles, rounded } from "../src/cli/bench/statistics.js";
import { circumstances, record } from "./history.js";
import { ours } from "./measure.js";

const { values } = parseArgs({ options: { model: { type: "string" }, rounds: { type: "string", default: "3" } } });
const { model, rounds } = values;
if (!model) {
  console.error("usage: --model FOLDER [--rounds 3]");
  process.exit(2);
}

const speeds: Record<string, () => number> = {
  step: () => ours("step", "--seq", "256", "--model", model).tokens_per_s!,
  decoding: () => ours("generate", "--prompt", "64", "--new", "150", "--model", model).decode_tok_s!,
};

const alone: Record<string, number[]> = { step: [], decoding: [] };
const beside: Record<string, number[]> = { step: [], decoding: [] };
for (let round = 0; round < Number(rounds); round++)
  for (const [name, speed] of Object.entries(speeds)) {
    alone[name]!.push(speed());
    const other = spawn("taskset", ["-c", "0", process.execPath, "-e", "for(;;);"], { stdio: "ignore" });
    beside[name]!.push(speed());
    other.kill();
  }

const common = circumstances(process.argv.slice(2));
const share = (cpus().length - 0.5) / cpus().length;
const median = (runs: readonly number[]) => quantiles(runs).median;
const rows = Object.keys(speeds).map((name) => {
  const [free, pressed] = [median(alone[name]!), median(beside[name]!)];
  return {
    kind: "beside",
    what: name,
    alone_tok_s: rounded(free),
    beside_tok_s: rounded(pressed),
    kept: rounded(pressed / free / share, 3),
    ...common,
  };
});
for (const row of rows) console.log(JSON.stringify(row));
record("beside", rows);
