/** Kinds `sft_run` and `eval` (golden/train) and `real_sft_run` (golden/real): training and evaluation, step by step. */
import { join } from "node:path";
import { LowrankError } from "../../../src/errors.js";
import type { CausalLM } from "../../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import { AdamW } from "../../../src/optim/adamw.js";
import type { Optimizer } from "../../../src/optim/optimizer.js";
import { createSchedule } from "../../../src/optim/schedules.js";
import { LoraConfig } from "../../../src/peft/config.js";
import { getPeftModel, type PeftModel } from "../../../src/peft/peft-model.js";
import { Tensor } from "../../../src/tensor/tensor.js";
import { resolveArguments } from "../../../src/train/arguments.js";
import { evaluateBatch, summarize } from "../../../src/train/evaluate.js";
import { type EmbeddingNoise, neftuneScale } from "../../../src/train/neftune.js";
import { createOptimizer } from "../../../src/train/optimizer.js";
import { type StepReport, TrainStep } from "../../../src/train/step.js";
import { adapterTrainable, fullTrainable, type Trainable } from "../../../src/train/trainable.js";
import { Errors } from "../errors.js";
import { microBatch, tokenPlaces } from "../micro-batch.js";
import { type GoldenTensor, readTensors } from "../tensors.js";
import { type GoldenCase, type GoldenHandler, type GoldenOutcome, skipped } from "../types.js";
import { optimizerOf } from "./optimizer.js";
import { realModelFolder } from "./real.js";

/** What the version does not compute becomes a skip with the library's own words. */
export async function skipUnsupported(body: () => Promise<GoldenOutcome>): Promise<GoldenOutcome> {
  try {
    return await body();
  } catch (error) {
    if (!(error instanceof LowrankError) || error.code !== "UNSUPPORTED") throw error;
    return skipped(typeof error.details.reason === "string" ? error.details.reason : error.message);
  }
}

const load = (folder: string, c: GoldenCase) =>
  AutoModelForCausalLM.fromPretrained(folder, { device: c.options.device, dtype: "float32" });

/** The i-th micro-batch of a file whose tensors are named `input_ids.i` and so on. */
const numbered = (inputs: ReadonlyMap<string, GoldenTensor>, i: number) => microBatch((name) => inputs.get(`${name}.${i}`));

/** NEFTune with the file's draws in [-1, 1], of which padding has its own. */
function givenNoise(alpha: number, inputs: ReadonlyMap<string, GoldenTensor>): EmbeddingNoise {
  return (tokens, _, hiddenSize, device) => {
    const i = (tokens as { number?: number }).number;
    const draws = inputs.get(`neftune_noise.${i}`)!.data;
    const mask = inputs.get(`attention_mask.${i}`);
    const places = mask ? tokenPlaces(mask) : Array.from(tokens.inputIds.keys());
    const scale = neftuneScale(alpha, tokens.width, hiddenSize);
    const noise = new Float32Array(places.length * hiddenSize);
    for (const [row, place] of places.entries())
      for (let k = 0; k < hiddenSize; k++) noise[row * hiddenSize + k] = draws[place * hiddenSize + k]! * scale;
    return Tensor.from(noise, [places.length, hiddenSize], { device });
  };
}

/** A fresh adapter with the state that the file gives it. */
function withAdapter(model: CausalLM, config: LoraConfig, inputs: ReadonlyMap<string, GoldenTensor>): PeftModel<CausalLM> {
  const peft = getPeftModel(model, config);
  for (const { key } of peft.trainable.plan.tensors) {
    const initial = inputs.get(`adapter.${key}`);
    if (!initial) throw new Error(`the case has no adapter.${key}`);
    peft.trainable.arena.get(key).upload(initial.data as Float32Array);
  }
  return peft;
}

/** Arguments of a run under LoRA+. */
// biome-ignore lint/suspicious/noExplicitAny: as in case.json
const loraPlusArguments = (settings: any, maxGradNorm: number) =>
  resolveArguments({
    learningRate: settings.lr,
    weightDecay: settings.loraplus_weight_decay ?? 0,
    loraplusLrRatio: settings.loraplus_lr_ratio,
    loraplusLrEmbedding: settings.loraplus_lr_embedding ?? 1e-6,
    maxGradNorm,
  });

const sftRun: GoldenHandler = (c) =>
  skipUnsupported(async () => {
    const { spec } = c;
    const inputs = readTensors(join(c.dir, spec.inputs));
    await using model = await load(join(c.dir, spec.base), c);
    const peft = spec.fullFinetune
      ? undefined
      : withAdapter(model, LoraConfig.fromJSON({ peft_type: "LORA", ...spec.peftConfig }), inputs);
    const trainable: Trainable = peft ? adapterTrainable(peft) : fullTrainable(model);
    const plus = spec.optimizer.name === "loraplus_adamw" ? loraPlusArguments(spec.optimizer, spec.maxGradNorm) : undefined;
    const optimizer = plus ? createOptimizer(plus, trainable) : optimizerOf(trainable.arena, spec.optimizer, spec.maxGradNorm);
    if (!optimizer) {
      trainable.arena.dispose();
      return skipped(`optimizer '${spec.optimizer.name}' is not supported yet`);
    }
    const { type, totalSteps, warmupSteps, kwargs = {} } = spec.schedule;
    const schedule = createSchedule({ type, totalSteps, warmupSteps, baseLr: spec.optimizer.lr ?? 0, kwargs });
    const gradientCheckpointing = spec.gradientCheckpointing ?? false;
    const labelSmoothing = spec.labelSmoothing ?? 0;
    const embeddingNoise = spec.neftuneNoiseAlpha ? givenNoise(spec.neftuneNoiseAlpha, inputs) : undefined;
    const step = new TrainStep(model, optimizer, { seed: 0, gradientCheckpointing, labelSmoothing, embeddingNoise });
    const errors = new Errors();
    const { expected, tolerance } = spec;
    const reports: StepReport[] = [];
    const rates: number[] = [];
    const targets: number[] = [];
    let microStep = 0;
    for (const [k, numbers] of (spec.steps as number[][]).entries()) {
      const batches = numbers.map((i) => ({ ...numbered(inputs, i), number: i }));
      targets.push(batches.reduce((sum, { targetTokens }) => sum + targetTokens, 0));
      rates.push(schedule(k));
      reports.push(await step.run(batches, schedule(k), microStep));
      microStep += batches.length;
    }
    errors.same("targetTokens", targets, expected.targetTokens);
    const losses = reports.map(({ loss }) => loss);
    errors.relativeToLargest("loss", losses, expected.loss, tolerance.loss);
    const norms = reports.map(({ gradNorm }) => gradNorm);
    errors.relativeToLargest("gradNorm", norms, expected.gradNorm, tolerance.gradNorm);
    // LoRA+: the rates of A, of embeddings, of B, and of B without decay.
    const ratio = plus?.loraplusLrRatio ?? 1;
    const scales = plus ? [1, plus.loraplusLrEmbedding / plus.learningRate, ratio, ratio] : [1];
    const lrs = rates.flatMap((rate) => scales.map((scale) => rate * scale));
    errors.relativeToLargest("lr", lrs, expected.lr.flat(), 1e-6);
    if (expected.microLoss) {
      const micro = reports.flatMap(({ microLosses }) => microLosses);
      errors.relativeToLargest("microLoss", micro, expected.microLoss.flat(), tolerance.loss);
    }
    await compareState(trainable, optimizer, readTensors(join(c.dir, spec.expectedTensors)), tolerance.tensor, errors);
    optimizer.dispose();
    trainable.arena.dispose();
    return errors.outcome();
  });

/** `final.*` against the parameters, `exp_avg.*` and `exp_avg_sq.*` against the optimizer's moments. */
async function compareState(
  { arena }: Trainable,
  { state }: Optimizer,
  expected: ReadonlyMap<string, GoldenTensor>,
  tolerance: number,
  errors: Errors,
): Promise<void> {
  const flat = {
    final: await arena.values.readFloat32(),
    exp_avg: await state.exp_avg?.readFloat32(),
    exp_avg_sq: await state.exp_avg_sq?.readFloat32(),
  };
  for (const [key, want] of expected) {
    const dot = key.indexOf(".");
    const source = flat[key.slice(0, dot) as keyof typeof flat];
    const segment = arena.segments.find(({ name }) => name === key.slice(dot + 1));
    if (!source || !segment) errors.wrong.push(`${key} is not trained`);
    else errors.relativeToLargest(key, source.subarray(segment.begin, segment.end), want.data, tolerance);
  }
}

const evaluation: GoldenHandler = (c) =>
  skipUnsupported(async () => {
    const { spec } = c;
    const inputs = readTensors(join(c.dir, spec.inputs));
    await using model = await load(join(c.dir, spec.base), c);
    const config = spec.peftConfig && LoraConfig.fromJSON({ peft_type: "LORA", ...spec.peftConfig });
    const peft = config ? withAdapter(model, config, inputs) : undefined;
    const errors = new Errors();
    const { expected, tolerance } = spec;
    const results = [];
    for (let i = 0; i < spec.microBatches; i++) results.push(await evaluateBatch(model, numbered(inputs, i)));
    const check = (label: string, got: ReturnType<typeof summarize>, want: typeof expected, loss: number) => {
      errors.same(`${label}targetTokens`, got.targetTokens, want.targetTokens);
      errors.relative(`${label}loss`, got.loss, loss, tolerance.loss);
      errors.compare(
        `${label}meanTokenAccuracy`,
        [got.meanTokenAccuracy],
        [want.meanTokenAccuracy],
        tolerance.meanTokenAccuracy + 1e-12,
      );
      errors.relative(`${label}entropy`, got.entropy, want.entropy, tolerance.entropy);
    };
    for (const [i, result] of results.entries()) {
      check(`batch ${i}: `, summarize([result]), expected.batches[i], expected.batches[i].meanLoss);
      errors.relative(`batch ${i}: lossSum`, result.lossSum, expected.batches[i].lossSum, tolerance.loss);
    }
    check("", summarize(results), expected, expected.loss);
    errors.relative("perplexity", summarize(results).perplexity, expected.perplexity, tolerance.perplexity);
    peft?.unload();
    return errors.outcome();
  });

/** How A starts in a real run: a 32-bit hash of the module's number and the element's, in U(±1/√in). */
function hashedInit(m: number, count: number, fanIn: number): Float32Array {
  return Float32Array.from({ length: count }, (_, n) => {
    let x = Math.imul((n + m * 1_000_003) >>> 0, 2_654_435_761);
    x = Math.imul(x ^ (x >>> 15), 2_246_822_519);
    x = (x ^ (x >>> 13)) >>> 0;
    return ((2 * x) / 2 ** 32 - 1) / Math.sqrt(fanIn);
  });
}

const realSftRun: GoldenHandler = async (c) => {
  const { spec } = c;
  const folder = realModelFolder(c);
  if (!folder) return skipped(`the folder ${spec.model} is absent`);
  const inputs = readTensors(join(c.dir, "inputs.safetensors"));
  await using model = await load(folder, c);
  const { r, loraAlpha, targetModules, betas, eps, weightDecay, maxGradNorm, tolerance } = spec;
  const peft = getPeftModel(model, new LoraConfig({ r, loraAlpha, targetModules }));
  const { arena, plan } = peft.trainable;
  // Names are compared as the training library has them, with the adapter's name inside.
  const matrices = plan.tensors
    .filter(({ role }) => role === "lora_A")
    .map(({ key, shape }) => ({ key, shape, sortKey: key.replace(/\.weight$/, ".default.weight") }));
  matrices.sort((a, b) => (a.sortKey < b.sortKey ? -1 : 1));
  for (const { key } of plan.tensors) arena.get(key).upload(new Float32Array(arena.get(key).size));
  for (const [m, { key, shape }] of matrices.entries()) arena.get(key).upload(hashedInit(m, shape[0]! * shape[1]!, shape[1]!));
  const trainable = adapterTrainable(peft);
  const optimizer = new AdamW(trainable.arena, { betas, eps, weightDecay, maxGradNorm });
  const step = new TrainStep(model, optimizer, { seed: 0 });
  const errors = new Errors();
  for (const [k, want] of spec.log.entries()) {
    const batches = Array.from({ length: spec.microBatches }, (_, i) => microBatch((name) => inputs.get(`${k}.${i}.${name}`)));
    const lr = spec.lr * (1 - k / spec.steps);
    const report = await step.run(batches, lr, k * spec.microBatches);
    const targets = batches.reduce((sum, { targetTokens }) => sum + targetTokens, 0);
    errors.same(`step ${k}: targetTokens`, targets, want.targetTokens);
    errors.relative(`step ${k}: lr`, lr, want.lr, 1e-6);
    errors.relative(`step ${k}: loss`, report.loss, want.loss, tolerance.loss);
    errors.relative(`step ${k}: gradNorm`, report.gradNorm, want.gradNorm, tolerance.gradNorm);
  }
  for (const [key, [sum, absolute]] of Object.entries<[number, number]>(spec.finalSums)) {
    const values = await arena.get(key).readFloat32();
    const got = values.reduce(([total, size], x) => [total! + x, size! + Math.abs(x)], [0, 0]);
    errors.compare(`final sums of ${key}`, [got[0]! / absolute, got[1]! / absolute], [sum / absolute, 1], tolerance.gradNorm);
  }
  optimizer.dispose();
  peft.unload();
  return errors.outcome();
};

export const trainHandlers: Record<string, GoldenHandler> = { sft_run: sftRun, eval: evaluation, real_sft_run: realSftRun };
