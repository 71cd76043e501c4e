// `npm run bench:peers -- --model FOLDER --base FOLDER --python PYTHON [--gguf FILE --llama-python PYTHON] [--seq 256 --batch 1 --rank 16
// --rounds 3 --checkpointing]`: the same QLoRA step here and in PyTorch + PEFT + bitsandbytes, and the same generation in llama.cpp,
// in turns, so that a busy minute meets all of them. FOLDER of --model is in 4 bits, that of --base the same weights in 16
// (`lowrank merge --model FOLDER --out BASE`); ../shared/peers/setup.sh makes the environments.
import { join } from "node:path";
import { parseArgs } from "node:util";
import { quantiles, rounded } from "../src/cli/bench/statistics.js";
import { circumstances, type HistoryRow, record } from "./history.js";
import { type Measured, measure, ours } from "./measure.js";

const peers = join(import.meta.dirname, "../../shared/peers");
const { values } = parseArgs({
  options: {
    model: { type: "string" },
    base: { type: "string" },
    python: { type: "string" },
    gguf: { type: "string" },
    "llama-python": { type: "string" },
    seq: { type: "string", default: "256" },
    batch: { type: "string", default: "1" },
    rank: { type: "string", default: "16" },
    rounds: { type: "string", default: "3" },
    checkpointing: { type: "boolean", default: false },
  },
});
const { model, base, python, gguf, "llama-python": llama, seq, batch, rank, checkpointing } = values;
if (!model || !(python && base) === !(gguf && llama)) {
  console.error("usage: --model FOLDER with --base FOLDER --python PYTHON, or with --gguf FILE --llama-python PYTHON");
  process.exit(2);
}

const shape = ["--seq", seq, "--batch", batch, "--rank", rank];
const torch = (dtype: string) =>
  measure(python!, [
    `${peers}/torch_step.py`,
    base!,
    "--quant",
    "nf4",
    "--dtype",
    dtype,
    ...shape,
    ...(checkpointing ? ["--ckpt"] : []),
  ]);

/** What runs in turns, by name; the first is ours. */
const parties: Record<string, () => Measured> =
  python && base
    ? {
        lowrank: () => ours("step", "--model", model, ...shape, ...(checkpointing ? ["--checkpointing"] : [])),
        "lowrank f32": () =>
          ours("step", "--model", model, ...shape, "--dtype", "float32", ...(checkpointing ? ["--checkpointing"] : [])),
        "torch f32": () => torch("f32"),
        "torch bf16": () => torch("bf16"),
      }
    : {
        lowrank: () => ours("generate", "--model", model),
        "llama.cpp": () => measure(llama!, [`${peers}/llamacpp_rates.py`, gguf!]),
      };
const METRICS = ["tokens_per_s", "peak_rss_mib", "prompt_tok_s", "decode_tok_s"];

const results = new Map<string, Measured[]>(Object.keys(parties).map((name) => [name, []]));
for (let round = 0; round < Number(values.rounds); round++)
  for (const [name, run] of Object.entries(parties)) {
    const result = run();
    results.get(name)!.push(result);
    console.error(
      `${round + 1} ${name}: ${METRICS.filter((m) => m in result)
        .map((m) => `${m} ${result[m]}`)
        .join(", ")}`,
    );
  }
const common = circumstances(process.argv.slice(2));
const rows: HistoryRow[] = [...results].map(([party, runs]) => ({
  kind: "peer",
  party,
  ...(python && { seq: Number(seq), batch: Number(batch), rank: Number(rank), checkpointing }),
  ...Object.fromEntries(
    METRICS.filter((metric) => metric in runs[0]!).map((metric) => [
      metric,
      rounded(quantiles(runs.map((r) => r[metric]!)).median),
    ]),
  ),
  ...common,
}));
const first = rows[0]!;
for (const row of rows) {
  const ratios = METRICS.filter((metric) => metric in row).map(
    (metric) => `${metric} ${row[metric]} (lowrank ${((first[metric] as number) / (row[metric] as number)).toFixed(2)} x)`,
  );
  console.log(`${String(row.party).padEnd(12)} ${ratios.join(", ")}`);
}
record("peers", rows);
