/**
 * The public API of lowrank. What is not exported here may change without notice.
 *
 * @packageDocumentation
 */
export { checkpoint } from "./autograd/checkpoint.js";
export { defineOp, type OpSpec } from "./autograd/op.js";
export { type Sink, valueAndGrad } from "./autograd/tape.js";
export { buildExamples, type ExampleOptions, type ExampleStats, type TokenExample } from "./data/examples.js";
export { type PreviewSegment, previewSegments, renderPreview } from "./data/preview.js";
export { type DataRow, type LoadOptions, loadRows } from "./data/rows.js";
export { type ErrorCode, LowrankError } from "./errors.js";
export type { GenerateOptions } from "./generate/options.js";
export type { GeneratedToken, Prompt } from "./generate/stream.js";
export type { Batch } from "./models/batch.js";
export { CausalLM, type ForwardOptions } from "./models/causal-lm.js";
export type { FromPretrainedOptions, LoadProgress, MathDType } from "./models/from-pretrained.js";
export { AutoModelForCausalLM, type FromConfigOptions, supportedModelTypes } from "./models/registry.js";
export type { SavedDType, SavePretrainedOptions } from "./models/save-pretrained.js";
export { Embedding } from "./nn/embedding.js";
export { Linear, linear } from "./nn/linear.js";
export { Module } from "./nn/module.js";
export { RMSNorm } from "./nn/rms-norm.js";
export type { OnNote } from "./notes.js";
export { Adafactor, type AdafactorOptions } from "./optim/adafactor.js";
export { Adam, type AdamOptions, AdamW, type AdamWOptions } from "./optim/adamw.js";
export { ParameterArena } from "./optim/arena.js";
export { Lion, type LionOptions } from "./optim/lion.js";
export type { MomentWidth, Optimizer, OptimizerReport, ParameterGroup } from "./optim/optimizer.js";
export { createSchedule, type Schedule, type ScheduleType } from "./optim/schedules.js";
export { SGD, type SGDOptions } from "./optim/sgd.js";
export type { LoadAdapterOptions } from "./peft/adapter-load.js";
export type { CombinationType, CombineOptions } from "./peft/combine.js";
export { LoraConfig, type LoraConfigOptions } from "./peft/config.js";
export { type LoraPlusOptions, loraPlusGroups } from "./peft/lora-plus.js";
export type { MergeOptions } from "./peft/merge.js";
export type { MergeDrift } from "./peft/merge-check.js";
export { type MergeCheckpointOptions, mergeIntoCheckpoint } from "./peft/merge-checkpoint.js";
export { type CreateAdapterOptions, getPeftModel, PeftModel, type SaveAdapterOptions } from "./peft/peft-model.js";
export { type QuantizeOptions, Weight } from "./quant/weight.js";
export { type Device, getDevice } from "./tensor/device.js";
export type { DType } from "./tensor/dtype.js";
export { scope } from "./tensor/scope.js";
export { Tensor } from "./tensor/tensor.js";
export { type ChatMessage, type RenderOptions, renderChatTemplate } from "./text/chat-template.js";
export { AutoTokenizer, Tokenizer } from "./text/tokenizer.js";
export type { TrainingArguments } from "./train/arguments.js";
export type { Finding, FindingCode } from "./train/checks/finding.js";
export { loadTrainConfig, type ParsedTrainConfig, parseTrainConfig, type TrainConfig } from "./train/config.js";
export { type Estimate, estimateRun } from "./train/estimate.js";
export type {
  CheckpointEvent,
  EvalEvent,
  StartEvent,
  StepEvent,
  TrainEvent,
  TrainResult,
  WarningEvent,
} from "./train/events.js";
export { type PreparedData, type PreparedRun, type PrepareOptions, prepareData, prepareRun } from "./train/run-config.js";
export { Trainer, type TrainerOptions } from "./train/trainer.js";
