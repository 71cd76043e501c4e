/** trainer_state.json, trainer_log.jsonl and all_results.json in the forms of transformers and LLaMA-Factory (formats.md D.4). */

export type LogEntry =
  | { epoch: number; step: number; loss: number | null; grad_norm: number | null; learning_rate: number; skipped?: true }
  | { epoch: number; step: number; eval_loss: number | null; eval_runtime: number };

/** JSON has neither NaN nor infinity, and readers of `NaN` as Python writes it are few: null. */
export const finiteOrNull = (value: number): number | null => (Number.isFinite(value) ? value : null);

/** The part of transformers' TrainerState that notebooks and dashboards read. */
export interface TrainerState {
  globalStep: number;
  epoch: number;
  maxSteps: number;
  numTrainEpochs: number;
  loggingSteps: number;
  evalSteps: number;
  saveSteps: number;
  trainBatchSize: number;
  numInputTokensSeen: number;
  bestMetric: number | null;
  bestGlobalStep: number | null;
  bestModelCheckpoint: string | null;
  logHistory: LogEntry[];
}

/** JSON as Python's `json.dumps(indent=2, sort_keys=True)` plus a newline. */
export function sortedJson(value: unknown): string {
  const sort = (v: unknown): unknown => {
    if (Array.isArray(v)) return v.map(sort);
    if (v === null || typeof v !== "object") return v;
    return Object.fromEntries(
      Object.entries(v)
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([k, x]) => [k, sort(x)]),
    );
  };
  return `${JSON.stringify(sort(value), null, 2)}\n`;
}

export function trainerStateJson(state: TrainerState): string {
  return sortedJson({
    best_global_step: state.bestGlobalStep,
    best_metric: state.bestMetric,
    best_model_checkpoint: state.bestModelCheckpoint,
    epoch: state.epoch,
    eval_steps: state.evalSteps,
    global_step: state.globalStep,
    is_hyper_param_search: false,
    is_local_process_zero: true,
    is_world_process_zero: true,
    log_history: state.logHistory,
    logging_steps: state.loggingSteps,
    max_steps: state.maxSteps,
    num_input_tokens_seen: state.numInputTokensSeen,
    num_train_epochs: state.numTrainEpochs,
    save_steps: state.saveSteps,
    stateful_callbacks: {},
    total_flos: 0,
    train_batch_size: state.trainBatchSize,
    trial_name: null,
    trial_params: null,
  });
}

export interface LogLine {
  step: number;
  totalSteps: number;
  epoch: number;
  elapsedSeconds: number;
  remainingSeconds: number;
  loss?: number | null;
  evalLoss?: number | null;
  /** The step changed nothing, because loss or gradient was not finite. */
  skipped?: true;
  lr?: number;
  tokensPerSecond?: number;
  totalTokens: number;
}

/** `1:02:03`, as LLaMA-Factory prints times. */
function clock(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  return `${Math.floor(s / 3600)}:${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}:${String(s % 60).padStart(2, "0")}`;
}

/** One line of trainer_log.jsonl. */
export function trainerLogEntry(line: LogLine): Record<string, unknown> {
  return {
    current_steps: line.step,
    total_steps: line.totalSteps,
    ...(line.loss === undefined ? {} : { loss: line.loss }),
    ...(line.evalLoss === undefined ? {} : { eval_loss: line.evalLoss }),
    ...(line.skipped ? { skipped: true } : {}),
    ...(line.lr === undefined ? {} : { lr: line.lr }),
    epoch: Number(line.epoch.toFixed(4)),
    percentage: Number(((100 * line.step) / Math.max(1, line.totalSteps)).toFixed(2)),
    elapsed_time: clock(line.elapsedSeconds),
    remaining_time: clock(line.remainingSeconds),
    ...(line.tokensPerSecond === undefined ? {} : { throughput: Number(line.tokensPerSecond.toFixed(2)) }),
    total_tokens: line.totalTokens,
  };
}
