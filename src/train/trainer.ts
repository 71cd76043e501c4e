import type { Sequences } from "../data/batches.js";
import { LowrankError } from "../errors.js";
import type { CausalLM } from "../models/causal-lm.js";
import { PeftModel } from "../peft/peft-model.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { dealBatches, type ResolvedArguments, resolveArguments, type TrainingArguments } from "./arguments.js";
import { factsOf } from "./checks/facts.js";
import { assertSound, type Finding } from "./checks/finding.js";
import { checkExamples, checkSettings } from "./checks/index.js";
import type { TrainEvent, TrainResult } from "./events.js";
import { trainedShapes } from "./lora.js";
import { Run } from "./run.js";
import { adapterTrainable, fullTrainable } from "./trainable.js";

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
