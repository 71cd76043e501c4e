import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, readFile, stat } from "node:fs/promises";
import { basename, join } from "node:path";
import { LowrankError } from "../errors.js";
import { type FolderWriter, writeFileDurable, writeFolder } from "../io/durable.js";
import { assertWritable, canonical } from "../io/folders.js";
import { readJsonFile } from "../io/json.js";
import { JsonLog } from "../io/json-log.js";
import { assertUnlocked, type FolderLock, lockFolder } from "../io/lock.js";
import type { ManifestFacts } from "../io/manifest.js";
import { settleFolder } from "../io/settle.js";
import { reading, writing } from "../io/system-errors.js";
import type { Optimizer } from "../optim/optimizer.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { ResolvedArguments } from "./arguments.js";
import {
  type CheckpointEntry,
  examineCheckpoint,
  listCheckpoints,
  newestVerified,
  pruneCheckpoints,
  removeCheckpoint,
  saveCheckpoint,
} from "./checkpoints.js";
import type { StepEvent, TrainResult } from "./events.js";
import { configDifferences } from "./resume-rule.js";
import { type RunIdentity, type RunState, readRunState, restoreTensors, stateBytes, writeRunState } from "./run-state.js";
import { finiteOrNull, sortedJson, trainerLogEntry, trainerStateJson } from "./state.js";
import type { Trainable } from "./trainable.js";

export interface RunFolderOptions {
  args: ResolvedArguments;
  /** Written as training_args.json and compared on resume. */
  config: Readonly<Record<string, unknown>>;
  tokenizer: Tokenizer | undefined;
  /** Written as chat_template.jinja where the tokenizer has none of its own. */
  chatTemplate: string | undefined;
  trainable: Trainable;
  optimizer: Optimizer;
  allowChange: readonly string[];
  identity: RunIdentity;
}

const ARGUMENTS_FILE = "training_args.json";
const LOG_FILE = "trainer_log.jsonl";

/** Throws LOCKED, CHECKPOINT where nothing can be written, or INVALID_CONFIG for an output folder that holds files which the run may neither continue nor overwrite. */
export async function assertUsable(
  path: string,
  args: Pick<ResolvedArguments, "overwriteOutputDir" | "resumeFromCheckpoint">,
): Promise<void> {
  await assertUnlocked(path);
  await writing(path, async () => assertWritable(await canonical(path)));
  // The log alone is that of a run which ended before it had saved anything.
  const present = (await readdir(path).catch(() => [])).filter((name) => !name.startsWith(".lowrank") && name !== LOG_FILE);
  if (present.length > 0 && !args.overwriteOutputDir && !args.resumeFromCheckpoint) {
    throw new LowrankError("INVALID_CONFIG", `output_dir ${path} is not empty`, {
      hint: "Continue its run with --resume, choose another output_dir, or set overwrite_output_dir: true.",
    });
  }
}

/** The output folder of one run: its lock, log, checkpoints and final files. */
export class RunFolder {
  readonly path: string;
  /** Sentences for people about what opening the folder found. */
  readonly notes: readonly string[];
  readonly #options: RunFolderOptions;
  readonly #lock: FolderLock;
  #log: JsonLog | undefined;
  /** Checkpoints of an earlier run that this one overwrites: they go once this one has a checkpoint of its own. */
  #stale: CheckpointEntry[] = [];

  private constructor(path: string, options: RunFolderOptions, lock: FolderLock) {
    this.path = path;
    this.#options = options;
    this.#lock = lock;
    this.notes = lock.note === undefined ? [] : [lock.note];
  }

  /** Locks the folder. Throws LOCKED, or INVALID_CONFIG when it holds another run's files and may not be overwritten or resumed. */
  static async open(path: string, options: RunFolderOptions): Promise<RunFolder> {
    const lock = await lockFolder(path);
    try {
      await assertUsable(path, options.args);
      await settleFolder(path);
    } catch (error) {
      await lock.release();
      throw error;
    }
    return new RunFolder(path, options, lock);
  }

  /** Restores the checkpoint the arguments ask for, if they ask for one; the notes say which, and what was passed over. */
  resume(): Promise<{ state: RunState; notes: string[] } | undefined> {
    return reading(this.path, () => this.#resume());
  }

  async #resume(): Promise<{ state: RunState; notes: string[] } | undefined> {
    const wanted = this.#options.args.resumeFromCheckpoint;
    const notes: string[] = [];
    let state: RunState | undefined;
    if (wanted) {
      const path = wanted === true ? await this.#newest(notes) : await verified(wanted);
      state = await readRunState(path);
      await this.#assertSame(path, state, notes);
      await restoreTensors(path, this.#options.optimizer);
      notes.push(`Continuing from ${path} at step ${state.step}`);
    }
    if (!wanted) this.#stale = await listCheckpoints(this.path);
    const { step } = state ?? { step: -1 };
    this.#log = await JsonLog.open(
      join(this.path, LOG_FILE),
      (entry) => (entry as { current_steps: number }).current_steps <= step,
    );
    return state && { state, notes };
  }

  async log(state: RunState, event: StepEvent, totalSteps: number): Promise<void> {
    state.logHistory.push({
      epoch: event.epoch,
      step: event.step,
      loss: finiteOrNull(event.loss),
      grad_norm: finiteOrNull(event.gradNorm),
      learning_rate: event.lr,
      ...(event.skipped && { skipped: true as const }),
    });
    await this.#log?.append(
      trainerLogEntry({
        step: event.step,
        totalSteps,
        epoch: event.epoch,
        loss: finiteOrNull(event.loss),
        ...(event.skipped && { skipped: true as const }),
        lr: event.lr,
        elapsedSeconds: state.runtimeSeconds,
        remainingSeconds: event.etaSeconds,
        tokensPerSecond: event.tokensPerSecond,
        totalTokens: state.trainedTokens,
      }),
    );
  }

  async logEvaluation(state: RunState, loss: number, seconds: number, totalSteps: number, epoch: number): Promise<void> {
    state.logHistory.push({ epoch, step: state.step, eval_loss: finiteOrNull(loss), eval_runtime: seconds });
    const remainingSeconds = (state.runtimeSeconds / Math.max(1, state.step)) * (totalSteps - state.step);
    await this.#log?.append(
      trainerLogEntry({
        step: state.step,
        totalSteps,
        epoch,
        evalLoss: finiteOrNull(loss),
        elapsedSeconds: state.runtimeSeconds,
        remainingSeconds,
        totalTokens: state.trainedTokens,
      }),
    );
  }

  /**
   * Saves `checkpoint-<step>`; when it is on the disk, older ones beyond the limit are removed. `resumable`: with the optimizer's state
   * even where save_only_model leaves it out.
   */
  async save(state: RunState, totalSteps: number, epoch: number, resumable = false): Promise<string> {
    const { args, optimizer } = this.#options;
    const complete = resumable || !args.saveOnlyModel;
    await this.#log?.sync();
    const path = await saveCheckpoint(
      this.path,
      state.step,
      async (dir) => {
        await this.#writeResult(dir, state, totalSteps, epoch);
        if (complete) await writeRunState(dir, state, optimizer);
      },
      { needed: (await this.#resultBytes()) + (complete ? stateBytes(optimizer) : 0), facts: this.#facts(state) },
    );
    for (const old of this.#stale.splice(0)) if (old.step !== state.step) await removeCheckpoint(old.path);
    await this.#prune();
    return path;
  }

  /** The final files in the folder itself. */
  async finish(state: RunState, result: TrainResult, totalSteps: number, epoch: number): Promise<void> {
    await this.#prune(); // a kill may have come between the last checkpoint and this
    await writeFolder(this.path, (dir) => this.#writeResult(dir, state, totalSteps, epoch), {
      needed: await this.#resultBytes(),
      facts: this.#facts(state),
    });
    await writeFileDurable(
      join(this.path, "all_results.json"),
      sortedJson({
        epoch,
        total_flos: 0,
        train_loss: result.trainLoss,
        train_runtime: result.runtimeSeconds,
        train_steps_per_second: result.steps / Math.max(1e-9, result.runtimeSeconds),
        eval_loss: result.evalLoss, // left out where undefined
        ...(result.skippedSteps === 0 ? {} : { skipped_steps: result.skippedSteps }),
      }),
    );
  }

  async #prune(): Promise<void> {
    const { saveTotalLimit } = this.#options.args;
    if (saveTotalLimit !== null) await pruneCheckpoints(this.path, saveTotalLimit);
  }

  #facts(state: RunState): ManifestFacts {
    const { config, identity } = this.#options;
    return {
      step: state.step,
      configHash: createHash("sha256").update(sortedJson(config)).digest("hex"),
      ...(identity.base !== null && { baseHash: identity.base }),
    };
  }

  /** Bytes that #writeResult takes, nearly. */
  async #resultBytes(): Promise<number> {
    const { tokenizer, trainable } = this.#options;
    const sizes = await Promise.all((tokenizer ? await tokenizer.files() : []).map(async (file) => (await stat(file)).size));
    return sizes.reduce((sum, size) => sum + size, trainable.byteLength);
  }

  /** Weights, tokenizer files, arguments and trainer_state.json: what every tool of the ecosystem reads. */
  async #writeResult(dir: FolderWriter, state: RunState, totalSteps: number, epoch: number): Promise<void> {
    const { args, config, tokenizer, chatTemplate, trainable } = this.#options;
    await trainable.write(dir);
    for (const file of tokenizer ? await tokenizer.files() : []) await dir.file(basename(file), await readFile(file));
    if (chatTemplate !== undefined && tokenizer?.chatTemplate === undefined) await dir.file("chat_template.jinja", chatTemplate);
    await dir.file(ARGUMENTS_FILE, sortedJson(config));
    await dir.file(
      "trainer_state.json",
      trainerStateJson({
        globalStep: state.step,
        epoch,
        maxSteps: totalSteps,
        numTrainEpochs: Math.ceil(args.numTrainEpochs),
        loggingSteps: args.loggingSteps,
        evalSteps: args.evalSteps ?? args.loggingSteps,
        saveSteps: args.saveSteps,
        trainBatchSize: args.perDeviceTrainBatchSize,
        numInputTokensSeen: state.trainedTokens,
        bestMetric: state.bestMetric,
        bestGlobalStep: state.bestGlobalStep,
        bestModelCheckpoint: state.bestGlobalStep === null ? null : `checkpoint-${state.bestGlobalStep}`,
        logHistory: state.logHistory,
      }),
    );
  }

  async #newest(notes: string[]): Promise<string> {
    const found = await newestVerified(this.path);
    if (!found) {
      throw new LowrankError("INVALID_CONFIG", `${this.path} holds no checkpoint that verifies`, {
        hint: "Start the run without resume_from_checkpoint.",
      });
    }
    for (const { path, problems } of found.skipped) notes.push(`Passed over ${path}: ${problems.join("; ")}`);
    return found.path;
  }

  /** A resumed run must be the same run: every difference is named, and refused unless allowed by its key. */
  async #assertSame(path: string, state: RunState, notes: string[]): Promise<void> {
    const old = (await readJsonFile(join(path, ARGUMENTS_FILE))) as Record<string, unknown>;
    const { config, identity, allowChange } = this.#options;
    const differences = configDifferences(old, config);
    for (const key of Object.keys(identity) as (keyof RunIdentity)[]) {
      if (state.identity[key] !== identity[key])
        differences.push({ key, old: state.identity[key] ?? null, new: identity[key] ?? null });
    }
    const lines = differences.map((entry) => `${entry.key}: ${JSON.stringify(entry.old)} → ${JSON.stringify(entry.new)}`);
    const refused = differences.filter(({ key }) => !allowChange.includes(key));
    if (refused.length > 0) {
      throw new LowrankError("INVALID_CONFIG", `This is not the run that made ${path}:\n- ${lines.join("\n- ")}`, {
        hint: `Undo the changes, or accept them: ${refused.map(({ key }) => `--allow-change ${key}`).join(" ")}`,
        details: { differences },
      });
    }
    for (const line of lines) notes.push(`Changed since the checkpoint: ${line}`);
  }

  async close(): Promise<void> {
    try {
      await this.#log?.close();
    } finally {
      this.#log = undefined;
      await this.#lock.release();
    }
  }
}

async function verified(path: string): Promise<string> {
  if (!existsSync(path)) throw new LowrankError("INVALID_CONFIG", `resume_from_checkpoint: there is no folder ${path}`);
  const { ok, problems } = await examineCheckpoint(path);
  if (!ok) {
    throw new LowrankError("CHECKPOINT", `${path} cannot be trusted: ${problems.join("; ")}`, {
      hint: "Resume with true: the newest checkpoint that verifies is taken.",
    });
  }
  return path;
}
