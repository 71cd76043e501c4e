import { Batches, makeUnits, type Sequences } from "../data/batches.js";
import { LowrankError } from "../errors.js";
import { KEYS, type TrainConfig } from "./config-keys.js";

/** What a Trainer needs of the training configuration; YAML keys of the same names in snake_case. */
const NAMES = [
  "outputDir",
  "overwriteOutputDir",
  "resumeFromCheckpoint",
  "perDeviceTrainBatchSize",
  "perDeviceEvalBatchSize",
  "gradientAccumulationSteps",
  "learningRate",
  "numTrainEpochs",
  "maxSteps",
  "lrSchedulerType",
  "lrSchedulerKwargs",
  "warmupSteps",
  "weightDecay",
  "maxGradNorm",
  "loraplusLrRatio",
  "loraplusLrEmbedding",
  "pissaConvert",
  "optim",
  "adamBeta1",
  "adamBeta2",
  "adamEpsilon",
  "labelSmoothingFactor",
  "neftuneNoiseAlpha",
  "seed",
  "dataSeed",
  "gradientCheckpointing",
  "activationOffloading",
  "disableShuffling",
  "packing",
  "neatPacking",
  "cutoffLen",
  "loggingSteps",
  "saveSteps",
  "saveStrategy",
  "saveTotalLimit",
  "saveOnlyModel",
  "evalStrategy",
  "evalSteps",
] as const satisfies readonly (keyof TrainConfig)[];

type Resolved = Pick<TrainConfig, (typeof NAMES)[number]>;

/** Arguments of a Trainer. Without `outputDir` nothing is written. Defaults are LLaMA-Factory's, but for one log entry a step. */
export type TrainingArguments = Partial<Resolved>;

/** All arguments with their defaults; `outputDir` is undefined when nothing is to be written. */
export type ResolvedArguments = Omit<Resolved, "outputDir"> & { outputDir: string | undefined };

/** Checks the arguments and fills in defaults. Throws INVALID_CONFIG with all mistakes. */
export function resolveArguments(args: TrainingArguments): ResolvedArguments {
  const resolved: Record<string, unknown> = {};
  const problems: string[] = [];
  for (const name of NAMES) {
    const given = args[name];
    const key = KEYS[name];
    const value = given === undefined || given === null ? structuredClone(key.default) : key.read(given as never);
    if (value === undefined) problems.push(`${name} should be ${key.expected}, found ${JSON.stringify(given)}`);
    resolved[name] = value;
  }
  if (args.loggingSteps === undefined) resolved.loggingSteps = 1;
  resolved.outputDir = args.outputDir;
  const misnamed = Object.keys(args).filter((name) => !(NAMES as readonly string[]).includes(name));
  for (const name of misnamed) problems.push(`'${name}' is no argument of a Trainer`);
  if (problems.length > 0) {
    throw new LowrankError(
      "INVALID_CONFIG",
      `the training arguments have ${problems.length} mistakes:\n- ${problems.join("\n- ")}`,
      { details: { problems } },
    );
  }
  return resolved as unknown as ResolvedArguments;
}

/** The training part of a checked YAML configuration. */
export function argumentsOf(config: TrainConfig): TrainingArguments {
  return Object.fromEntries(NAMES.map((name) => [name, config[name]])) as TrainingArguments;
}

/** How the arguments deal examples out in steps, and the optimizer steps of a whole run. */
export function dealBatches(args: ResolvedArguments, examples: Sequences): { batches: Batches; totalSteps: number } {
  const packing = args.packing ? { strategy: "bfd" as const, maxLength: args.cutoffLen } : undefined;
  const batches = new Batches(makeUnits(examples, packing), {
    batchSize: args.perDeviceTrainBatchSize,
    accumulationSteps: args.gradientAccumulationSteps,
    seed: args.dataSeed ?? args.seed,
    shuffle: !args.disableShuffling,
  });
  const totalSteps = args.maxSteps > 0 ? args.maxSteps : Math.max(1, Math.ceil(args.numTrainEpochs * batches.stepsPerEpoch));
  return { batches, totalSteps };
}

/** A number of steps: a count from 1 on, or below 1 a share of all steps, rounded up. */
export function stepCount(value: number, totalSteps: number): number {
  return value >= 1 ? value : Math.max(1, Math.ceil(value * totalSteps));
}
