/** Llama-3-8B's training step on a GPU as the sources of the kernels say, where no GPU is at hand: a model, not a measurement. */
import { noGrad } from "../../../autograd/tape.js";
import { packSequences } from "../../../models/batch.js";
import { loadAddon } from "../../../native/load.js";
import type { Kernels } from "../../../native/surface.js";
import { Device } from "../../../tensor/device.js";
import { scope } from "../../../tensor/scope.js";
import { parseTrainConfig } from "../../../train/config.js";
import { dryRun, emptyModel } from "../../../train/estimate.js";
import { rounded } from "../statistics.js";
import { costOf, type Launch, launchesOf } from "./cost.js";
import { GPUS, type Gpu } from "./devices.js";
import { type OpCall, Trace } from "./trace.js";

export const LLAMA3_8B = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 128_256,
  hidden_size: 4096,
  intermediate_size: 14_336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  max_position_embeddings: 8192,
  rms_norm_eps: 1e-5,
  rope_theta: 500_000,
  tie_word_embeddings: false,
  torch_dtype: "bfloat16",
};
const RANK = 16;
const LENGTHS = [512, 2048, 8192];
const HEAD_TOKENS = 4096;
const NOTE =
  "A model: times from tile sizes in the sources and published rates of the device, of kernels that no GPU has run. Kernels that only move memory are taken to reach a copy's rate. Nothing here was measured.";

const settings = (seq: number, checkpointing: boolean) =>
  parseTrainConfig({
    model_name_or_path: "Llama-3-8B",
    dataset: "none",
    output_dir: "none",
    quantization_bit: 4,
    lora_rank: RANK,
    per_device_train_batch_size: 1,
    cutoff_len: seq,
    gradient_checkpointing: checkpointing,
  }).config;

/** Ops of one step, and the trace that knows their shapes. */
async function stepCalls(seq: number, checkpointing: boolean): Promise<{ calls: OpCall[]; trace: Trace }> {
  const trace = new Trace(loadAddon());
  const device = new Device("dry:cpu", trace.addon);
  await dryRun(settings(seq, checkpointing), LLAMA3_8B, seq, device, { eachStep: () => trace.calls.splice(0), bf16: true });
  return { calls: trace.calls, trace };
}

/** Ops of one token with nothing before it. */
function decodeCalls(): { calls: OpCall[]; trace: Trace } {
  const trace = new Trace(loadAddon());
  const model = emptyModel(settings(512, false), LLAMA3_8B, new Device("dry:cpu", trace.addon), true);
  trace.calls.length = 0;
  scope(() => noGrad(() => void model.logits(model.hiddenStates(packSequences([[1]], model.device)))));
  model.dispose();
  return { calls: trace.calls, trace };
}

interface Sum {
  calls: number;
  seconds: number;
  ideal: number;
  useful: number;
  /** Seconds by what bounds them. */
  bounds: Map<string, number>;
}
const empty = (): Sum => ({ calls: 0, seconds: 0, ideal: 0, useful: 0, bounds: new Map() });

function add(sum: Sum, launch: Launch, gpu: Gpu): void {
  const { seconds, ideal, bound } = costOf(launch, gpu);
  sum.calls++;
  sum.seconds += seconds;
  sum.ideal += ideal;
  sum.useful += launch.useful ?? 0;
  sum.bounds.set(bound, (sum.bounds.get(bound) ?? 0) + seconds);
}

const boundOf = ({ bounds }: Sum) => [...bounds].reduce((a, b) => (b[1] > a[1] ? b : a), ["", -1])[0];

/** Sums over a list of calls: by kernel, by op, and of everything. */
function account({ calls, trace }: { calls: readonly OpCall[]; trace: Trace }, gpu: Gpu) {
  const kernels = new Map<string, Sum>();
  const ops = new Map<keyof Kernels, Sum>();
  const all = empty();
  for (const call of calls) {
    for (const launch of launchesOf(call, trace, gpu)) {
      for (const [map, key] of [
        [kernels, launch.kernel],
        [ops, call.op],
      ] as [Map<string, Sum>, string][]) {
        if (!map.has(key)) map.set(key, empty());
        add(map.get(key)!, launch, gpu);
      }
      add(all, launch, gpu);
    }
  }
  return { kernels, ops, all };
}

/** Ops that are not part of a layer. */
const OUTSIDE: ReadonlySet<string> = new Set([
  "tokenLogprob",
  "tokenLogprobGrad",
  "embedding",
  "adamw",
  "gradStats",
  "ropeTable",
]);
const ms = (seconds: number) => rounded(seconds * 1000);

/** A row a kernel, a layer and a step for each length, then the goals that a model can be held to. */
export async function* benchModel(name: string): AsyncGenerator<Record<string, unknown>> {
  const gpu = GPUS[name]!;
  yield { kind: "model", device: name, note: NOTE };
  const rates = new Map<string, number>();
  const accounts = new Map<string, ReturnType<typeof account>>();
  for (const seq of LENGTHS) {
    for (const checkpointing of [true, false]) {
      const result = account(await stepCalls(seq, checkpointing), gpu);
      accounts.set(`${seq} ${checkpointing}`, result);
      const { kernels, ops, all } = result;
      const common = { device: name, seq, checkpointing };
      const sorted = [...kernels].sort(([, a], [, b]) => b.seconds - a.seconds);
      for (const [kernel, sum] of sorted)
        yield {
          kind: "model_kernel",
          ...common,
          kernel,
          calls: sum.calls,
          ms: ms(sum.seconds),
          share_of_step: rounded(sum.seconds / all.seconds, 3),
          bound: boundOf(sum),
          share_of_roofline: rounded(sum.ideal / sum.seconds, 3),
        };
      const layer = [...ops].filter(([op]) => !OUTSIDE.has(op)).reduce((total, [, { seconds }]) => total + seconds, 0);
      yield { kind: "model_layer", ...common, ms: ms(layer / LLAMA3_8B.num_hidden_layers) };
      const rate = seq / all.seconds;
      rates.set(`${seq} ${checkpointing}`, rate);
      yield {
        kind: "model_step",
        ...common,
        ms: ms(all.seconds),
        tokens_per_s: rounded(rate),
        share_of_roofline: rounded(all.ideal / all.seconds, 3),
      };
    }
  }
  if (name === "h100") yield* goals(gpu, accounts, rates);
}

async function* goals(gpu: Gpu, accounts: ReadonlyMap<string, ReturnType<typeof account>>, rates: ReadonlyMap<string, number>) {
  const row = (goal: string, what: string, modelled: number, wanted: number, sum: Sum, lower = false) => ({
    kind: "model_goal",
    goal,
    what,
    modelled: rounded(modelled, 3),
    wanted,
    met: lower ? modelled <= wanted : modelled >= wanted,
    bound: boundOf(sum),
  });
  for (const seq of [2048, 512]) {
    const sum = accounts.get(`${seq} false`)!.ops.get("linear")!;
    yield row(
      "G1",
      `NF4 + LoRA linears forward, M = ${seq}: share of cuBLAS bf16`,
      sum.useful / sum.seconds / gpu.tensor,
      0.85,
      sum,
    );
  }
  for (const [checkpointing, wanted] of [
    [true, 12_000],
    [false, 17_000],
  ] as const) {
    const key = `2048 ${checkpointing}`;
    yield row(
      "G3",
      `tokens/s, S = 2048, ${checkpointing ? "all layers recomputed" : "none recomputed"}`,
      rates.get(key)!,
      wanted,
      accounts.get(key)!.all,
    );
  }
  const head = account(await stepCalls(HEAD_TOKENS, true), gpu).ops.get("tokenLogprob")!;
  yield row("G6", `output head and cross-entropy, T = ${HEAD_TOKENS}: ms`, head.seconds * 1000, 13, head, true);
  const decode = account(decodeCalls(), gpu).all;
  yield row("G7", "decoding, M = 1, empty cache: tokens/s", 1 / decode.seconds, 350, decode);
  const { ops } = accounts.get("2048 true")!;
  const [adamw, stats] = [ops.get("adamw")!, ops.get("gradStats")!];
  yield row("G8", "AdamW over 42 M parameters: ms", (adamw.seconds + stats.seconds) * 1000, 0.6, adamw, true);
  const long = accounts.get("8192 false")!.ops;
  const [forward, backward] = [long.get("attention")!, long.get("attentionGrad")!];
  yield row("G9", "attention forward, S = 8192: TFLOP/s", forward.useful / forward.seconds / 1e12, 480, forward);
  yield row("G9", "attention backward, S = 8192: TFLOP/s", backward.useful / backward.seconds / 1e12, 400, backward);
}
