import type { FolderWriter } from "../io/durable.js";
import type { CausalLM } from "../models/causal-lm.js";
import { Embedding } from "../nn/embedding.js";
import { ParameterArena } from "../optim/arena.js";
import { writeAdapter } from "../peft/adapter-save.js";
import { countBase } from "../peft/count.js";
import type { PeftModel } from "../peft/peft-model.js";
import type { AdapterPlan } from "../peft/plan.js";
import { native } from "../tensor/native-errors.js";

/** What a trainer trains: a model, the arena of the parameters that change, and how the result is written. */
export interface Trainable extends Disposable {
  readonly model: CausalLM;
  readonly arena: ParameterArena;
  /** Names of the parameters that are tables of embeddings. */
  readonly embeddings: ReadonlySet<string>;
  /** What an adapter's tensors are; undefined where the model's own parameters train. */
  readonly plan: AdapterPlan | undefined;
  readonly counts: { trainable: number; all: number };
  /** Bytes that `write` needs. */
  readonly byteLength: number;
  /** Writes what was trained, in the form others load, into a folder that is being saved. */
  write(dir: FolderWriter): Promise<void>;
  /** Frees what only training needs; the model keeps what it learnt. */
  [Symbol.dispose](): void;
}

/** The active adapter of a model with adapters. `convertToLora`: written as {@link PeftModel.savePretrained} does then. */
export function adapterTrainable(peft: PeftModel<CausalLM>, { convertToLora = false } = {}): Trainable {
  const adapter = peft.trainable;
  const { arena, byteLength } = adapter;
  adapter.setTrainable(true);
  return {
    model: peft.base,
    arena,
    embeddings: embeddingsOf(peft.base, "base_model.model."),
    plan: adapter.plan,
    counts: peft.parameterCounts(),
    byteLength: convertToLora ? 2 * byteLength : byteLength,
    // A run trains one adapter, which lies in the folder itself whatever its name.
    write: async (dir) => {
      await writeAdapter(dir, "", adapter, peft.base, convertToLora);
    },
    [Symbol.dispose]: () => adapter.setTrainable(false),
  };
}

/**
 * All weights of a model: they move, as float32, into one arena. A tied embedding and head stay one parameter, which gets gradients from
 * both ends. Throws UNSUPPORTED for a 4-bit base.
 */
export function fullTrainable(model: CausalLM): Trainable {
  const slots = model.parameterSlots();
  const arena = new ParameterArena(
    slots.map(({ path, tensor }) => ({ name: path, shape: tensor.shape })),
    model.device,
  );
  try {
    arena.setTrainable(true);
  } catch (error) {
    arena.dispose();
    throw error;
  }
  const { kernels, number } = model.device;
  for (const { path, tensor, replace } of slots) {
    const parameter = arena.get(path);
    native(() => kernels.copy(number, parameter.handle, tensor.handle));
    replace(parameter);
  }
  return {
    model,
    arena,
    embeddings: embeddingsOf(model),
    plan: undefined,
    counts: { trainable: arena.size, all: countBase(model) },
    byteLength: arena.size * 4 + 65_536,
    write: (dir) => model.writeFiles(dir, { dtype: "float32" }),
    [Symbol.dispose]: () => arena.dispose(),
  };
}

function embeddingsOf(model: CausalLM, prefix = ""): Set<string> {
  return new Set(
    [...model.modules()].flatMap(([path, module]) => (module instanceof Embedding ? [`${prefix}${path}.weight`] : [])),
  );
}
