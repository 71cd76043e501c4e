import { createHash } from "node:crypto";
import { Batches as BatchDealer, type Batches, fingerprint, makeUnits, type Sequences } from "../data/batches.js";
import { countTargets } from "../data/collate.js";
import { LowrankError } from "../errors.js";
import type { CausalLM } from "../models/causal-lm.js";
import type { Optimizer } from "../optim/optimizer.js";
import { createSchedule, type Schedule, warmupSteps } from "../optim/schedules.js";
import { PeftModel } from "../peft/peft-model.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { dealBatches, type ResolvedArguments, resolveArguments, stepCount, type TrainingArguments } from "./arguments.js";
import { checkEnded } from "./checks/ended.js";
import { factsOf } from "./checks/facts.js";
import { assertSound, type Finding } from "./checks/finding.js";
import { checkExamples, checkSettings } from "./checks/index.js";
import { LossWatch } from "./checks/watch.js";
import { type BatchEvaluation, evaluateBatch, summarize } from "./evaluate.js";
import type { EvalEvent, StepEvent, TrainEvent, TrainResult, WarningEvent } from "./events.js";
import { trainedShapes } from "./lora.js";
import { createOptimizer } from "./optimizer.js";
import { RunFolder } from "./run-folder.js";
import type { RunIdentity, RunState } from "./run-state.js";
import { type StepReport, stepOptions, TrainStep } from "./step.js";
import { adapterTrainable, fullTrainable, type Trainable } from "./trainable.js";

export interface TrainerOptions {
  /** A model with one active adapter, or a bare model for full-parameter training. */
  model: PeftModel<CausalLM> | CausalLM;
  /** Tokenised examples; labels are -100 where nothing is learned and not shifted. */
  dataset: Sequences;
  evalDataset?: Sequences;
  args?: TrainingArguments;
  /** Its files are saved beside adapters and checkpoints. */
  tokenizer?: Tokenizer;
  /** Saved beside them where the tokenizer has no chat template of its own. */
  chatTemplate?: string | undefined;
  /** What checkpoints record as training_args.json and what a resume compares; default: the arguments. */
  config?: Readonly<Record<string, unknown>>;
  /** Keys in which a resumed run may differ from the one that made the checkpoint. */
  allowChange?: readonly string[];
  /** What `prepareData` found in these data and settings; absent: the run looks itself. Warnings become events, errors are thrown. */
  findings?: readonly Finding[];
  /** What in the files has no effect here: warnings at the beginning of the run. */
  notes?: readonly string[];
  /** Codes of errors that are accepted. */
  allow?: readonly string[];
}

/** Steps that tokensPerSecond is measured over. */
const RATE_WINDOW = 10;
/** Steps skipped in a row after which a run stops. */
const MAX_SKIPPED = 5;

/**
 * Trains what its model makes trainable, as an iterator of events. One optimizer step is enqueued while the one before is awaited, so
 * the event loop stays free and the device busy. Lazy: nothing happens before `run()` is iterated, and it runs once.
 */
export class Trainer {
  readonly args: ResolvedArguments;
  readonly #options: TrainerOptions;
  #started = false;

  constructor(options: TrainerOptions) {
    this.args = resolveArguments(options.args ?? {});
    this.#options = options;
    if (options.dataset.length === 0)
      throw new LowrankError("DATASET", "The data set has no examples", { hint: "Look at it with `lowrank data preview`." });
  }

  /** Drains `run()`. */
  async train(options: { signal?: AbortSignal } = {}): Promise<TrainResult> {
    let result: TrainResult | undefined;
    for await (const event of this.run(options)) if (event.type === "done") result = event.result;
    return result!;
  }

  /**
   * Abort: the step in progress ends (an evaluation does not: the resumed run does it), a checkpoint is saved and announced, then
   * `signal.reason` is thrown. Leaving the loop with `break`
   * stops and frees without saving.
   */
  async *run(options: { signal?: AbortSignal } = {}): AsyncGenerator<TrainEvent, void, void> {
    if (this.#started) throw new LowrankError("INVALID_ARGUMENT", "A Trainer runs once", { hint: "Make a new Trainer." });
    this.#started = true;
    const { model, allow } = this.#options;
    const findings = this.#options.findings ?? (await this.#check());
    assertSound(findings, allow);
    // Before full-parameter training takes the weights over. A run that writes nothing needs no identity.
    const base = model instanceof PeftModel ? model.base : model;
    const baseHash = this.args.outputDir === undefined ? null : await base.baseHash();
    const { pissaConvert: convertToLora } = this.args;
    using trainable = model instanceof PeftModel ? adapterTrainable(model, { convertToLora }) : fullTrainable(model);
    await using run = new Run(this.args, { ...this.#options, findings }, trainable, baseHash);
    yield* run.events(options.signal);
  }

  async #check(): Promise<Finding[]> {
    const { model, dataset, evalDataset, tokenizer, chatTemplate } = this.#options;
    const peft = model instanceof PeftModel ? model : undefined;
    const { config, generationConfig, vocabSize } = model instanceof PeftModel ? model.base : model;
    const found = await checkExamples({
      train: dataset,
      evaluation: evalDataset,
      facts: factsOf(config, generationConfig, tokenizer),
      tokenizer,
      chatTemplate: chatTemplate ?? tokenizer?.chatTemplate,
      answers: false,
    });
    assertSound(found, this.#options.allow);
    const run = { args: this.args, totalSteps: dealBatches(this.args, dataset).totalSteps, hasEval: evalDataset !== undefined };
    const adapter = peft && { pairs: trainedShapes(peft), dropout: peft.trainable.config.loraDropout };
    return [...found, ...checkSettings(run, adapter, dataset, vocabSize)];
  }
}

/** One run: what it needs is made in `events` and freed when the run is disposed. */
class Run {
  readonly #args: ResolvedArguments;
  readonly #options: TrainerOptions;
  readonly #trainable: Trainable;
  readonly #optimizer: Optimizer;
  readonly #batches: Batches;
  readonly #totalSteps: number;
  readonly #schedule: Schedule;
  readonly #step: TrainStep;
  readonly #identity: RunIdentity;
  readonly #watch: LossWatch;
  readonly #warnings: WarningEvent[] = [];
  #folder: RunFolder | undefined;
  #state: RunState;
  readonly #startedAt = performance.now();

  constructor(args: ResolvedArguments, options: TrainerOptions, trainable: Trainable, baseHash: string | null) {
    this.#args = args;
    this.#options = options;
    this.#trainable = trainable;
    const { batches, totalSteps } = dealBatches(args, options.dataset);
    this.#batches = batches;
    this.#totalSteps = totalSteps;
    this.#watch = new LossWatch(trainable.model.vocabSize);
    this.#schedule = createSchedule({
      type: args.lrSchedulerType,
      totalSteps: this.#totalSteps,
      warmupSteps: warmupSteps(args.warmupSteps, this.#totalSteps),
      baseLr: args.learningRate,
      kwargs: args.lrSchedulerKwargs,
    });
    // Last of what can fail: it takes memory that only the run's disposal gives back.
    this.#optimizer = createOptimizer(args, trainable);
    this.#step = new TrainStep(trainable.model, this.#optimizer, stepOptions(args));
    const { info } = trainable.model.device;
    this.#identity = {
      dataset: fingerprint(options.dataset),
      isa: info.isa,
      bf16: trainable.model.bf16,
      base: baseHash,
      parameters: createHash("sha256")
        .update(JSON.stringify(trainable.arena.segments.map(({ name, shape }) => [name, shape])))
        .digest("hex"),
    };
    this.#state = {
      step: 0,
      trainedTokens: 0,
      targetTokens: 0,
      lossSum: 0,
      runtimeSeconds: 0,
      skippedSteps: 0,
      bestMetric: null,
      bestGlobalStep: null,
      logHistory: [],
      identity: this.#identity,
    };
  }

  async *events(signal: AbortSignal | undefined): AsyncGenerator<TrainEvent, void, void> {
    signal?.throwIfAborted();
    for (const message of this.#options.notes ?? []) yield { type: "warning", message };
    const args = this.#args;
    if (args.outputDir !== undefined) {
      this.#folder = await RunFolder.open(args.outputDir, {
        args,
        config: this.#options.config ?? { ...args },
        tokenizer: this.#options.tokenizer,
        chatTemplate: this.#options.chatTemplate,
        trainable: this.#trainable,
        optimizer: this.#optimizer,
        allowChange: this.#options.allowChange ?? [],
        identity: this.#identity,
      });
      for (const message of this.#folder.notes) yield { type: "warning", message };
      const resumed = await this.#folder.resume();
      if (resumed) {
        this.#state = resumed.state;
        for (const message of resumed.notes) yield { type: "warning", message };
      }
    }
    const { dataset } = this.#options;
    yield {
      type: "start",
      totalSteps: this.#totalSteps,
      step: this.#state.step,
      examples: dataset.length,
      targetTokensPerEpoch: dataset.reduce((sum, { labels }) => sum + countTargets(labels), 0),
      trainableParameters: this.#trainable.counts.trainable,
      allParameters: this.#trainable.counts.all,
    };
    yield* this.#warn(this.#options.findings ?? []);
    yield* this.#steps(signal);
    const { step, skippedSteps } = this.#state;
    yield* this.#warn([...this.#watch.atEnd(), ...(await checkEnded(this.#options.model, step, skippedSteps))]);
    const result = this.#result();
    if (this.#folder) await this.#folder.finish(this.#state, result, this.#totalSteps, this.#epoch());
    yield { type: "done", result };
  }

  *#warn(findings: readonly Finding[]): Generator<WarningEvent, void, void> {
    for (const { code, message, hint } of findings) {
      const event: WarningEvent = { type: "warning", message, code, hint };
      this.#warnings.push(event);
      yield event;
    }
  }

  async *#steps(signal: AbortSignal | undefined): AsyncGenerator<TrainEvent, void, void> {
    const { step, logHistory } = this.#state;
    const logEvery = stepCount(this.#args.loggingSteps, this.#totalSteps);
    const due = this.#due(step);
    // The run was interrupted before this step's evaluation, or in it.
    if (step > 0 && due.evaluates && !logHistory.some((entry) => entry.step === step && "eval_loss" in entry)) {
      const evaluation = await this.#evaluate(step, signal);
      if (evaluation) yield evaluation;
      if (evaluation && due.saves) yield await this.#save();
    }
    this.#lastStepAt = performance.now();
    let pending = step < this.#totalSteps ? this.#enqueue(step) : undefined;
    while (pending) {
      const current: PendingStep = pending;
      const number = current.index + 1;
      const last = number === this.#totalSteps;
      const { saves, evaluates } = this.#due(number);
      const aborted = signal?.aborted === true;
      // The next step may only be enqueued before this one is read when nothing has to see the state in between, and not after a
      // skipped step: the run may have to stop with exactly this state.
      pending = last || saves || evaluates || aborted || !this.#steady ? undefined : this.#enqueue(number);
      const report = await current.report;
      const event = this.#record(current, report);
      if (number % logEvery === 0 || last) await this.#folder?.log(this.#state, event, this.#totalSteps);
      yield event;
      if (!report.finite) {
        yield {
          type: "warning",
          message: `Step ${number}: the loss or gradient is not finite; the step changed nothing (${report.consecutive} in a row)`,
        };
        if (report.consecutive >= MAX_SKIPPED) {
          if (this.#folder) yield await this.#save(true);
          throw this.#diverged(report);
        }
      } else yield* this.#warn(this.#watch.see(event));
      // An abort that comes while the next step is already enqueued waits for it: it is part of what is saved.
      const stops = () => signal?.aborted === true && pending === undefined;
      if (evaluates && !stops()) {
        const evaluation = await this.#evaluate(number, signal);
        if (evaluation) yield evaluation;
      }
      let resumable = false;
      if (this.#folder && (saves || stops())) {
        resumable = stops() || !this.#args.saveOnlyModel;
        yield await this.#save(resumable);
      }
      if (stops()) {
        if (this.#folder && !resumable) yield await this.#save(true);
        throw signal!.reason;
      }
      if (pending === undefined && !last) pending = this.#enqueue(number);
    }
  }

  /** What is to be done once that many steps are. */
  #due(step: number): { saves: boolean; evaluates: boolean } {
    const args = this.#args;
    const saveEvery = stepCount(args.saveSteps, this.#totalSteps);
    const evalEvery = stepCount(args.evalSteps ?? args.loggingSteps, this.#totalSteps);
    const last = step === this.#totalSteps;
    const epochEnds = step % this.#batches.stepsPerEpoch === 0;
    const comes = (strategy: string, every: number) =>
      strategy !== "no" && (last || (strategy === "steps" ? step % every === 0 : epochEnds));
    return {
      saves: this.#folder !== undefined && comes(args.saveStrategy, saveEvery),
      evaluates: this.#options.evalDataset !== undefined && comes(args.evalStrategy, evalEvery),
    };
  }

  #enqueue(index: number): PendingStep {
    const batch = this.#batches.at(this.#batches.cursorAt(index));
    const lr = this.#schedule(index);
    const report = this.#step.run(batch.microBatches, lr, index * this.#args.gradientAccumulationSteps);
    // A failure is reported where the step is awaited, also when the loop has been left before.
    const ended: Promise<unknown> = report.catch(() => {}).finally(() => this.#inFlight.delete(ended));
    this.#inFlight.add(ended);
    return { index, lr, tokens: batch.tokens, targetTokens: batch.targetTokens, report };
  }

  /** The last step that was read was finite. */
  #steady = false;
  /** Steps whose reports are still being read: their tensors go when that is done. */
  readonly #inFlight = new Set<Promise<unknown>>();
  #lastStepAt = performance.now();
  /** Tokens and seconds of the last steps: single ones are uneven, because a step is enqueued while the one before runs. */
  readonly #recent: { tokens: number; seconds: number }[] = [];

  #record(step: PendingStep, report: StepReport): StepEvent {
    const state = this.#state;
    const now = performance.now();
    const seconds = (now - this.#lastStepAt) / 1000;
    this.#lastStepAt = now;
    this.#recent.push({ tokens: step.tokens, seconds });
    if (this.#recent.length > RATE_WINDOW) this.#recent.shift();
    const total = (key: "tokens" | "seconds") => this.#recent.reduce((sum, recent) => sum + recent[key], 0);
    state.step = step.index + 1;
    state.trainedTokens += step.tokens;
    state.skippedSteps = report.skipped;
    this.#steady = report.finite;
    if (report.finite) {
      state.targetTokens += step.targetTokens;
      state.lossSum += report.loss * step.targetTokens;
    }
    state.runtimeSeconds += seconds;
    const done = state.step;
    return {
      type: "step",
      step: done,
      totalSteps: this.#totalSteps,
      epoch: this.#epoch(),
      loss: report.loss,
      gradNorm: report.gradNorm,
      lr: step.lr,
      targetTokens: step.targetTokens,
      tokensPerSecond: total("tokens") / total("seconds"),
      etaSeconds: (state.runtimeSeconds / done) * (this.#totalSteps - done),
      ...(report.finite ? {} : { skipped: true as const }),
    };
  }

  #epoch(): number {
    return this.#state.step / this.#batches.stepsPerEpoch;
  }

  /** Undefined when an abort cut it off: nothing of it is kept. */
  async #evaluate(step: number, signal: AbortSignal | undefined): Promise<EvalEvent | undefined> {
    const started = performance.now();
    const batches = new BatchDealer(makeUnits(this.#options.evalDataset!), {
      batchSize: this.#args.perDeviceEvalBatchSize,
      accumulationSteps: 1,
      seed: 0,
      shuffle: false,
    });
    const parts: BatchEvaluation[] = [];
    for (let i = 0; i < batches.stepsPerEpoch; i++) {
      for (const tokens of batches.at(batches.cursorAt(i)).microBatches) {
        if (signal?.aborted) return undefined;
        parts.push(await evaluateBatch(this.#trainable.model, tokens, { labelSmoothing: this.#args.labelSmoothingFactor }));
      }
    }
    const { loss, perplexity, targetTokens, meanTokenAccuracy, entropy } = summarize(parts);
    const state = this.#state;
    // What is not finite is never the best, and JSON could not keep it.
    if (Number.isFinite(loss) && (state.bestMetric === null || loss < state.bestMetric)) {
      state.bestMetric = loss;
      state.bestGlobalStep = step;
    }
    const seconds = (performance.now() - started) / 1000;
    await this.#folder?.logEvaluation(state, loss, seconds, this.#totalSteps, this.#epoch());
    this.#lastStepAt = performance.now();
    return { type: "eval", step, loss, perplexity, targetTokens, meanTokenAccuracy, entropy };
  }

  async #save(resumable = false): Promise<TrainEvent> {
    const path = await this.#folder!.save(this.#state, this.#totalSteps, this.#epoch(), resumable);
    this.#lastStepAt = performance.now();
    return { type: "checkpoint", step: this.#state.step, path };
  }

  #diverged(report: StepReport): LowrankError {
    return new LowrankError(
      "NON_FINITE",
      `Training stopped: loss or gradient were not finite in ${report.consecutive} steps in a row`,
      {
        hint: "The weights are those of the last good step. Lower learning_rate, or check the data and the base model.",
        details: { step: this.#state.step, skipped: report.skipped },
      },
    );
  }

  #result(): TrainResult {
    const { step, lossSum, targetTokens, bestMetric, skippedSteps } = this.#state;
    return {
      steps: step,
      epochs: this.#epoch(),
      trainLoss: targetTokens > 0 ? lossSum / targetTokens : 0,
      ...(bestMetric === null ? {} : { evalLoss: bestMetric }),
      runtimeSeconds: (performance.now() - this.#startedAt) / 1000,
      targetTokens,
      skippedSteps,
      warnings: this.#warnings,
      ...(this.#args.outputDir === undefined ? {} : { outputDir: this.#args.outputDir }),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Whatever is still enqueued must not outlive its buffers' owners.
    await this.#trainable.model.device.synchronize().catch(() => {});
    await Promise.allSettled(this.#inFlight);
    this.#optimizer.dispose();
    await this.#folder?.close();
  }
}

interface PendingStep {
  index: number;
  lr: number;
  tokens: number;
  targetTokens: number;
  report: Promise<StepReport>;
}
