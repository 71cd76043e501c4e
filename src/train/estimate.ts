import type { DecoderConfig } from "../models/config.js";
import { readConfigFile } from "../models/config-reader.js";
import type { TensorSpec } from "../models/layout.js";
import { resolveConfig } from "../models/registry.js";
import type { TrainConfig } from "./config.js";
import { pairShapes } from "./lora.js";

/** Memory of a run in bytes, computed from shapes alone. */
export interface Estimate {
  /** The base as it lies in memory: 4-bit linears with their statistics, embedding and norms. */
  weightBytes: number;
  /** Trainable values, gradients and AdamW's two moments (SGD without momentum has none), float32. */
  optimizerBytes: number;
  /** What the backward pass needs of one micro-batch, and the chunk of logits. */
  activationBytes: number;
  totalBytes: number;
  trainableParameters: number;
  allParameters: number;
  /** Tokens of the micro-batch it was computed for. */
  tokens: number;
}

/** What the process itself takes besides: Node.js, code, thread stacks, GEMM panels. */
const PROCESS_BYTES = 150 << 20;
/** Logits of the output head exist for this many rows at a time. */
const HEAD_ROWS = 128;

const elements = (spec: TensorSpec) => spec.shape.reduce((product, size) => product * size, 1);

/**
 * Estimates a run from config.json, without weights.
 *
 * @param longest tokens of the longest example; every one of a micro-batch is taken to be as long
 */
export async function estimateRun(config: TrainConfig, folder: string, longest: number): Promise<Estimate> {
  const json = await readConfigFile(folder);
  const { family, config: model } = resolveConfig(json);
  const specs = family.weights.tensors(model);
  const base = specs.reduce((sum, spec) => sum + elements(spec), 0);
  const full = config.finetuningType === "full";
  const adapter = full ? 0 : pairShapes(config, json).reduce((sum, pair) => sum + pair.rank * (pair.out + pair.in), 0);
  const trainable = full ? base : adapter;
  const tokens = (config.packing ? config.cutoffLen : Math.min(longest, config.cutoffLen)) * config.perDeviceTrainBatchSize;
  const weightBytes = full ? 0 : weightsOf(specs, model, config.quantizationBit === 4);
  const optimizerBytes = trainable * (config.optim === "sgd" ? 8 : 16);
  const activationBytes = activationsOf(model, tokens, config.gradientCheckpointing);
  return {
    weightBytes,
    optimizerBytes,
    activationBytes,
    totalBytes: weightBytes + optimizerBytes + activationBytes + PROCESS_BYTES,
    trainableParameters: trainable,
    allParameters: base + adapter,
    tokens,
  };
}

function weightsOf(specs: readonly TensorSpec[], model: DecoderConfig, quantize: boolean): number {
  const doubleQuant = model.quantization?.doubleQuant ?? true;
  const fourBit = model.quantization !== undefined || quantize;
  const dense = model.json.torch_dtype === "float32" || model.json.dtype === "float32" ? 4 : 2;
  const bits = fourBit ? (doubleQuant ? 4.127 : 4.5) : dense * 8;
  return specs.reduce(
    (sum, spec) => sum + elements(spec) * (spec.kind === "linear" ? bits / 8 : spec.kind === "norm" ? 4 : dense),
    0,
  );
}

/** Float32 values a token that one layer keeps for its backward pass: its inputs and normed inputs, q, k, v and the attention's output, gate, up and their product. */
function activationsOf(model: DecoderConfig, tokens: number, checkpointing: boolean): number {
  const { hiddenSize: d, intermediateSize: ffn, headDim, numHeads, numKvHeads, numLayers, vocabSize } = model;
  const layer = 5 * d + 3 * numHeads * headDim + 3 * numKvHeads * headDim + 3 * ffn;
  const kept = checkpointing ? numLayers * 2 * d + layer : numLayers * layer;
  return 4 * (tokens * (kept + 4 * d) + 2 * HEAD_ROWS * vocabSize);
}
