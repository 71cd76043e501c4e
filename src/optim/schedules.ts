import { LowrankError } from "../errors.js";
import { didYouMean } from "../suggest.js";

/** Names of transformers.get_scheduler that are supported, with the options each takes and their defaults (null: none). */
const OPTIONS = {
  constant: {},
  constant_with_warmup: {},
  linear: {},
  cosine: { num_cycles: 0.5 },
  cosine_with_restarts: { num_cycles: 1 },
  cosine_with_min_lr: { num_cycles: 0.5, min_lr: null, min_lr_rate: null },
  cosine_warmup_with_min_lr: { num_cycles: 0.5, min_lr: null, min_lr_rate: null, warmup_lr_rate: null },
  polynomial: { lr_end: 1e-7, power: 1 },
  inverse_sqrt: { timescale: null },
  warmup_stable_decay: {
    num_decay_steps: null,
    num_stable_steps: null,
    warmup_type: "linear",
    decay_type: "cosine",
    min_lr_ratio: 0,
    num_cycles: 0.5,
  },
} as const satisfies Record<string, Record<string, number | string | null>>;

export type ScheduleType = keyof typeof OPTIONS;
export const SCHEDULE_TYPES = Object.keys(OPTIONS) as ScheduleType[];
const SHAPES = ["linear", "cosine", "1-sqrt"];

export interface ScheduleOptions {
  type: ScheduleType;
  /** Optimizer steps of the whole run. */
  totalSteps: number;
  warmupSteps: number;
  /** Learning rate after warm-up. */
  baseLr: number;
  /** lr_scheduler_kwargs of transformers, in its names. */
  kwargs?: Readonly<Record<string, unknown>>;
}

/** Learning rate of optimizer step k, counted from 0; defined past the end too. */
export type Schedule = (step: number) => number;

type Numbers = Record<string, number | undefined>;

/** What is wrong with a schedule's options, as sentences; empty when nothing is. */
export function scheduleProblems(options: Pick<ScheduleOptions, "type" | "baseLr" | "kwargs">): string[] {
  const { type, baseLr, kwargs = {} } = options;
  const known: Record<string, unknown> = OPTIONS[type];
  const problems: string[] = [];
  for (const [key, value] of Object.entries(kwargs)) {
    if (!Object.hasOwn(known, key))
      problems.push(`lr_scheduler_kwargs: ${type} has no option '${key}'${didYouMean(key, Object.keys(known))}`);
    else if (key.endsWith("_type") && !SHAPES.includes(String(value)))
      problems.push(`lr_scheduler_kwargs: ${key} should be one of ${SHAPES.join(", ")}, found ${value}`);
    else if (!key.endsWith("_type") && value !== null && (typeof value !== "number" || !Number.isFinite(value))) {
      problems.push(`lr_scheduler_kwargs: ${key} should be a number, found ${JSON.stringify(value)}`);
    }
  }
  const given = (key: string) => kwargs[key] !== undefined && kwargs[key] !== null;
  if (Object.hasOwn(known, "min_lr") && given("min_lr") === given("min_lr_rate")) {
    problems.push(`lr_scheduler_kwargs: ${type} needs either min_lr or min_lr_rate`);
  }
  if (type === "warmup_stable_decay" && !given("num_decay_steps"))
    problems.push("lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps");
  const end = given("lr_end") ? (kwargs.lr_end as number) : 1e-7;
  if (type === "polynomial" && !(baseLr > end))
    problems.push(`lr_scheduler_kwargs: lr_end (${end}) must be smaller than learning_rate (${baseLr})`);
  return problems;
}

/** The schedules of transformers.optimization.get_scheduler, value for value. Throws INVALID_CONFIG. */
export function createSchedule(options: ScheduleOptions): Schedule {
  const { type, totalSteps: total, warmupSteps: warmup, baseLr } = options;
  const problems = scheduleProblems(options);
  if (problems.length > 0) throw new LowrankError("INVALID_CONFIG", problems.join("\n"), { details: { problems } });
  const texts: Record<string, unknown> = { ...OPTIONS[type], ...options.kwargs };
  const kwargs = Object.fromEntries(
    Object.entries(texts).map(([key, value]) => [key, typeof value === "number" ? value : undefined]),
  ) as Numbers;
  const factor = factorOf(type, total, warmup, baseLr, kwargs, texts);
  return (step) => baseLr * factor(step);
}

/** Warm-up steps of `value`: a count from 1 on, below that a share of all steps, rounded up as transformers does in float64. */
export function warmupSteps(value: number, totalSteps: number): number {
  return value >= 1 ? Math.floor(value) : Math.ceil(totalSteps * value);
}

function factorOf(
  type: ScheduleType,
  total: number,
  warmup: number,
  baseLr: number,
  kwargs: Numbers,
  texts: Record<string, unknown>,
): Schedule {
  const rising = (step: number) => step / Math.max(1, warmup);
  const progress = (step: number) => (step - warmup) / Math.max(1, total - warmup);
  const wave = (x: number, cycles: number) => 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * x));
  const warmed =
    (after: Schedule): Schedule =>
    (step) =>
      step < warmup ? rising(step) : after(step);
  const minRate = kwargs.min_lr_rate ?? (kwargs.min_lr ?? 0) / baseLr;
  const floored = (factor: number) => Math.max(0, factor * (1 - minRate) + minRate);
  switch (type) {
    case "constant":
      return () => 1;
    case "constant_with_warmup":
      return warmed(() => 1);
    case "linear":
      return warmed((step) => Math.max(0, (total - step) / Math.max(1, total - warmup)));
    case "cosine":
      return warmed((step) => Math.max(0, wave(progress(step), kwargs.num_cycles!)));
    case "cosine_with_restarts":
      return warmed((step) => (progress(step) >= 1 ? 0 : Math.max(0, wave((kwargs.num_cycles! * progress(step)) % 1, 0.5))));
    case "cosine_with_min_lr":
      return warmed((step) => floored(wave(progress(step), kwargs.num_cycles!)));
    case "cosine_warmup_with_min_lr": {
      const first = kwargs.warmup_lr_rate;
      return (step) => {
        if (step >= warmup) return floored(wave((step - warmup + 1) / Math.max(1, total - warmup), kwargs.num_cycles!));
        return first === undefined ? (step + 1) / Math.max(1, warmup) : first + ((1 - first) * step) / Math.max(1, warmup - 1);
      };
    }
    case "polynomial": {
      const end = kwargs.lr_end!;
      // A warm-up as long as the run leaves no step to decay over.
      const remaining = (step: number) => (step > total || total === warmup ? 0 : 1 - (step - warmup) / (total - warmup));
      return warmed((step) => ((baseLr - end) * remaining(step) ** kwargs.power! + end) / baseLr);
    }
    case "inverse_sqrt": {
      const timescale = kwargs.timescale ?? (warmup || 10_000);
      return warmed((step) => 1 / Math.sqrt((step + timescale - warmup) / timescale));
    }
    case "warmup_stable_decay":
      return stableDecay(total, warmup, kwargs, String(texts.warmup_type), String(texts.decay_type));
  }
}

function stableDecay(total: number, warmup: number, kwargs: Numbers, warmupType: string, decayType: string): Schedule {
  const decay = kwargs.num_decay_steps!;
  const stableEnd = warmup + (kwargs.num_stable_steps ?? total - warmup - decay);
  const least = kwargs.min_lr_ratio!;
  const floored = (factor: number) => Math.max(0, factor * (1 - least) + least);
  const rise = (x: number) => {
    if (warmupType === "linear") return x;
    return warmupType === "cosine" ? 0.5 * (1 - Math.cos(Math.PI * x)) : 1 - Math.sqrt(1 - x);
  };
  const fall = (x: number) => {
    if (decayType === "linear") return 1 - x;
    return decayType === "cosine" ? 0.5 * (1 + Math.cos(Math.PI * kwargs.num_cycles! * 2 * x)) : 1 - Math.sqrt(x);
  };
  return (step) => {
    if (step < warmup) return floored(rise(step / Math.max(1, warmup)));
    if (step < stableEnd) return 1;
    return step < stableEnd + decay ? floored(fall((step - stableEnd) / Math.max(1, decay))) : least;
  };
}
