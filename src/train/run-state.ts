import { join } from "node:path";
import { LowrankError } from "../errors.js";
import type { FolderWriter } from "../io/durable.js";
import { LIMITS } from "../io/input.js";
import { type Json, readJsonFile } from "../io/json.js";
import { openSafetensors } from "../io/safetensors.js";
import { type TensorEntry, writeSafetensors } from "../io/safetensors-write.js";
import type { Optimizer } from "../optim/optimizer.js";
import type { Tensor } from "../tensor/tensor.js";
import { type LogEntry, sortedJson } from "./state.js";

const OPTIMIZER_FILE = "optimizer.safetensors";
const STATE_FILE = "lowrank_state.json";

/** What a run must find again to go on as if it had never stopped, besides the tensors. Data order and random draws follow from the step. */
export interface RunState {
  step: number;
  trainedTokens: number;
  targetTokens: number;
  lossSum: number;
  runtimeSeconds: number;
  /** Steps that changed nothing because something was not finite. */
  skippedSteps: number;
  bestMetric: number | null;
  bestGlobalStep: number | null;
  logHistory: LogEntry[];
  /** Compared on resume: other data or another machine's kernels would not continue the same run. */
  identity: RunIdentity;
}

export interface RunIdentity {
  dataset: string;
  isa: string;
  bf16: boolean;
  /** Content of the base's checkpoint; null for a model that comes from none. */
  base: string | null;
  /** Names and shapes of what trains. */
  parameters: string;
}

/** The tensors of the run, exactly: float32 parameters, moments, the optimizer's header. */
function stateTensors(optimizer: Optimizer): Record<string, Tensor> {
  return { values: optimizer.arena.values, ...optimizer.state };
}

/** Bytes of the optimizer file. */
export function stateBytes(optimizer: Optimizer): number {
  return Object.values(stateTensors(optimizer)).reduce((sum, tensor) => sum + tensor.byteLength, 4096);
}

/** Writes optimizer.safetensors and lowrank_state.json. The tensors are read one at a time, when their turn comes. */
export async function writeRunState(dir: FolderWriter, state: RunState, optimizer: Optimizer): Promise<void> {
  const entries = Object.entries(stateTensors(optimizer)).map(([name, tensor]): TensorEntry => {
    const bytes = async () => {
      const { buffer, byteOffset, byteLength } = await tensor.read();
      return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
    };
    return { name, dtype: tensor.dtype === "uint8" ? "U8" : "F32", shape: tensor.shape, bytes };
  });
  await dir.file(OPTIMIZER_FILE, (sink) => writeSafetensors(sink, { format: "lowrank" }, entries));
  await dir.file(STATE_FILE, sortedJson(state));
}

/** The state of a verified checkpoint, without its tensors. Throws CHECKPOINT when the run cannot be continued from it. */
export async function readRunState(folder: string): Promise<RunState> {
  const path = join(folder, STATE_FILE);
  const state = await readJsonFile(path, LIMITS.runState).catch((cause) => {
    if (!(cause instanceof LowrankError) || cause.code !== "NOT_FOUND") throw cause;
    throw new LowrankError("CHECKPOINT", `${folder} cannot be continued: it was saved without optimizer state`, {
      hint: "Start a new run from its weights: set adapter_name_or_path to that folder.",
      cause,
    });
  });
  const wrong = Object.entries(FORM).find(([key, fits]) => !fits(state[key] ?? null));
  if (wrong) {
    const found = JSON.stringify(state[wrong[0]]) ?? "nothing";
    throw new LowrankError("CHECKPOINT", `${path} cannot be continued: its ${wrong[0]} is ${found.slice(0, 100)}`, {
      hint: "Resume from another checkpoint.",
      details: { file: path, key: wrong[0] },
    });
  }
  return state as unknown as RunState;
}

const isCount = (value: Json) => Number.isSafeInteger(value) && (value as number) >= 0;
const isNumber = (value: Json) => typeof value === "number";
const isObject = (value: Json) => typeof value === "object" && value !== null && !Array.isArray(value);
/** What each part of a state is. The identity is compared, not used. */
const FORM: Record<keyof RunState, (value: Json) => boolean> = {
  step: isCount,
  trainedTokens: isCount,
  targetTokens: isCount,
  lossSum: isNumber,
  runtimeSeconds: isNumber,
  skippedSteps: isCount,
  bestMetric: (value) => value === null || isNumber(value),
  bestGlobalStep: (value) => value === null || isCount(value),
  logHistory: (value) => Array.isArray(value) && value.every(isObject),
  identity: isObject,
};

/** Puts the saved bytes back into the optimizer and its parameters. */
export async function restoreTensors(folder: string, optimizer: Optimizer): Promise<void> {
  const file = await openSafetensors(join(folder, OPTIMIZER_FILE));
  try {
    const tensors = stateTensors(optimizer);
    const names = Object.keys(tensors);
    if (file.tensors.size !== names.length || !names.every((name) => file.tensors.has(name))) {
      throw new LowrankError(
        "CHECKPOINT",
        `${folder}: another optimizer made it: it holds ${[...file.tensors.keys()].join(", ")}`,
        {
          hint: "Resume with the optim of the run that made the checkpoint.",
        },
      );
    }
    for (const [name, tensor] of Object.entries(tensors)) {
      const size = file.tensors.get(name);
      if (!size || size.end - size.begin !== tensor.byteLength) {
        throw new LowrankError("CHECKPOINT", `${folder}: '${name}' has another size than this run's parameters`, {
          hint: "Resume with the rank, targets and model of the run that made the checkpoint.",
        });
      }
    }
    for (const [name, tensor] of Object.entries(tensors)) {
      const bytes = await file.read(name);
      tensor.upload(tensor.dtype === "uint8" ? bytes : new Float32Array(bytes.buffer));
    }
  } finally {
    await file.close();
  }
}
