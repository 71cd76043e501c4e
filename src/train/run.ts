import { createHash } from "node:crypto";
import { type Batches, fingerprint } from "../data/batches.js";
import { countTargets } from "../data/collate.js";
import { LowrankError } from "../errors.js";
import type { Optimizer } from "../optim/optimizer.js";
import { createSchedule, type Schedule, warmupSteps } from "../optim/schedules.js";
import { dealBatches, type ResolvedArguments, stepCount } from "./arguments.js";
import { checkEnded } from "./checks/ended.js";
import type { Finding } from "./checks/finding.js";
import { LossWatch } from "./checks/watch.js";
import { evaluateDataset } from "./evaluate.js";
import type { EvalEvent, TrainEvent, WarningEvent } from "./events.js";
import { createOptimizer } from "./optimizer.js";
import { type EnqueuedStep, Progress } from "./progress.js";
import { RunFolder } from "./run-folder.js";
import type { RunIdentity } from "./run-state.js";
import { type StepReport, stepOptions, TrainStep } from "./step.js";
import type { Trainable } from "./trainable.js";
import type { TrainerOptions } from "./trainer.js";

/** Steps skipped in a row after which a run stops. */
const MAX_SKIPPED = 5;

/** One run: what it needs is made in `events` and freed when the run is disposed. */
export class Run {
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
  readonly #progress: Progress;

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
    this.#progress = new Progress(this.#identity, totalSteps, batches.stepsPerEpoch);
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
        this.#progress.state = resumed.state;
        for (const message of resumed.notes) yield { type: "warning", message };
      }
    }
    const { dataset } = this.#options;
    yield {
      type: "start",
      totalSteps: this.#totalSteps,
      step: this.#progress.state.step,
      examples: dataset.length,
      targetTokensPerEpoch: dataset.reduce((sum, { labels }) => sum + countTargets(labels), 0),
      trainableParameters: this.#trainable.counts.trainable,
      allParameters: this.#trainable.counts.all,
    };
    yield* this.#warn(this.#options.findings ?? []);
    yield* this.#steps(signal);
    const { step, skippedSteps } = this.#progress.state;
    yield* this.#warn([...this.#watch.atEnd(), ...(await checkEnded(this.#options.model, step, skippedSteps))]);
    const result = this.#progress.result(this.#warnings, this.#args.outputDir);
    if (this.#folder) await this.#folder.finish(this.#progress.state, result, this.#totalSteps, this.#progress.epoch);
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
    const { step, logHistory } = this.#progress.state;
    const logEvery = stepCount(this.#args.loggingSteps, this.#totalSteps);
    const due = this.#due(step);
    // The run was interrupted before this step's evaluation, or in it.
    if (step > 0 && due.evaluates && !logHistory.some((entry) => entry.step === step && "eval_loss" in entry)) {
      const evaluation = await this.#evaluate(step, signal);
      if (evaluation) yield evaluation;
      if (evaluation && due.saves) yield await this.#save();
    }
    this.#progress.startClock();
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
      const event = this.#progress.record(current, report);
      this.#steady = report.finite;
      if (number % logEvery === 0 || last) await this.#folder?.log(this.#progress.state, event, this.#totalSteps);
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

  /** Undefined when an abort cut it off: nothing of it is kept. */
  async #evaluate(step: number, signal: AbortSignal | undefined): Promise<EvalEvent | undefined> {
    const started = performance.now();
    const { perDeviceEvalBatchSize: batchSize, labelSmoothingFactor: labelSmoothing } = this.#args;
    const options = { batchSize, labelSmoothing, signal };
    const evaluation = await evaluateDataset(this.#trainable.model, this.#options.evalDataset!, options);
    if (!evaluation) return undefined;
    const { loss } = evaluation;
    this.#progress.evaluated(loss, step);
    const seconds = (performance.now() - started) / 1000;
    await this.#folder?.logEvaluation(this.#progress.state, loss, seconds, this.#totalSteps, this.#progress.epoch);
    this.#progress.startClock();
    return { type: "eval", step, ...evaluation };
  }

  async #save(resumable = false): Promise<TrainEvent> {
    const path = await this.#folder!.save(this.#progress.state, this.#totalSteps, this.#progress.epoch, resumable);
    this.#progress.startClock();
    return { type: "checkpoint", step: this.#progress.state.step, path };
  }

  #diverged(report: StepReport): LowrankError {
    return new LowrankError(
      "NON_FINITE",
      `Training stopped: loss or gradient were not finite in ${report.consecutive} steps in a row`,
      {
        hint: "The weights are those of the last good step. Lower learning_rate, or check the data and the base model.",
        details: { step: this.#progress.state.step, skipped: report.skipped },
      },
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Whatever is still enqueued must not outlive its buffers' owners.
    await this.#trainable.model.device.synchronize().catch(() => {});
    await Promise.allSettled(this.#inFlight);
    this.#optimizer.dispose();
    await this.#folder?.close();
  }
}

interface PendingStep extends EnqueuedStep {
  report: Promise<StepReport>;
}
