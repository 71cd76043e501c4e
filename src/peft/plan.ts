import { LowrankError } from "../errors.js";
import { withinTime } from "../io/time-limit.js";
import type { AdapterSelection } from "../nn/adapter-slot.js";
import type { Linear } from "../nn/linear.js";
import type { Module } from "../nn/module.js";
import type { OnNote } from "../notes.js";
import { didYouMean } from "../suggest.js";
import type { Device } from "../tensor/device.js";
import type { LoraConfig } from "./config.js";
import type { ModelShape, ModuleShape } from "./model-shape.js";
import { namesEmbedding, resolveTargets } from "./targets.js";

/** What an adapter needs to know of the model it goes on. */
export interface BaseModel extends Module {
  readonly config: { readonly modelType: string };
  readonly device: Device;
  /** Folder or id the model came from. */
  readonly nameOrPath: string;
  /** Names the content of the checkpoint its weights come from; null where there is none. */
  baseHash(): Promise<string | null>;
  /** Called when an adapter became part of the weights. */
  weightsChanged(): void;
  /** The output head, which "all-linear" leaves out. It borrows the embedding's weight where the two are tied. */
  readonly lmHead: Linear;
  /** Adapters of forward passes that name none. */
  adapters: AdapterSelection;
}

/** The prefix of every key in adapter_model.safetensors. */
const PREFIX = "base_model.model.";

/** A tensor that trains: a slice of the adapter's arena and an entry of adapter_model.safetensors. */
export interface PlannedTensor {
  /** Key in adapter_model.safetensors. */
  key: string;
  shape: readonly number[];
  /** What initialisation does with it. */
  role: "lora_A" | "lora_B" | "lora_bias" | "magnitude" | "embedding_A" | "embedding_B" | "saved_copy" | "bias" | "token_rows";
  module: string;
}

/** One LoRA pair: which module, and the keys of its tensors, as {@link LoraPair} has them. */
export interface PlannedPair {
  module: string;
  a: string;
  b: string;
  /** Only with lora_bias. */
  bias: string | undefined;
  /** Only with use_dora. */
  magnitude: string | undefined;
  rank: number;
  scale: number;
  transposed: boolean;
}

/** What the adapter puts into one module: keys of trained tensors. */
export interface PlannedPart {
  module: string;
  pair?: PlannedPair;
  weight?: string;
  bias?: string;
  rows?: { key: string; ids: readonly number[] };
  /** A tied head that does what the embedding does. */
  follows?: true;
}

/** An entry of the file that only repeats what trains, or what the base holds. */
export interface PlannedRepeat {
  key: string;
  shape: readonly number[];
  /** The trained tensor it repeats, transposed or not, or the module of the base whose weight it is. */
  of: { key: string; transposed: boolean } | { base: string };
  /** Whether saving writes it; a file may hold copies of the base, or not. */
  written: boolean;
}

/** Everything an adapter consists of, made from its configuration and the model alone: created, loaded, saved and counted by it. */
export interface AdapterPlan {
  tensors: readonly PlannedTensor[];
  parts: readonly PlannedPart[];
  pairs: readonly PlannedPair[];
  repeats: readonly PlannedRepeat[];
  /** target_modules as a saved configuration lists them. */
  targetModules: string[] | string;
}

/**
 * Throws INVALID_CONFIG or ADAPTER_MISMATCH, with every mistake listed, when the configuration does not fit the model. `source` is what
 * errors call the configuration: its file, where there is one. `onUnmatched` makes a note of entries that match nothing: those of an
 * adapter that exists never had an effect, and what it has to hold its file shows.
 */
export function planAdapter(
  model: ModelShape,
  config: LoraConfig,
  source = "the LoRA configuration",
  onUnmatched?: OnNote,
): AdapterPlan {
  for (const [key, entries] of Object.entries({
    target_modules: config.targetModules,
    exclude_modules: config.excludeModules,
    modules_to_save: config.modulesToSave,
  }))
    if (Array.isArray(entries) && entries.length > MOST_ENTRIES)
      throw new LowrankError("INVALID_CONFIG", `${source}: ${key} has ${entries.length} entries, more than ${MOST_ENTRIES}`);
  // Patterns may backtrack without end.
  return withinTime(
    PATTERN_MS,
    () => new Planner(model, config, source).plan(onUnmatched),
    () => {
      return new LowrankError("INVALID_CONFIG", `${source}: its patterns were not matched within ${PATTERN_MS} ms`, {
        hint: "Name the modules as a list, or simplify the regular expressions of target_modules, exclude_modules, rank_pattern and alpha_pattern.",
      });
    },
  );
}

const PATTERN_MS = 400;
/** Each is compared with every module. */
const MOST_ENTRIES = 10_000;

class Planner {
  readonly #modules: ReadonlyMap<string, ModuleShape>;
  readonly #tensors: PlannedTensor[] = [];
  readonly #parts = new Map<string, PlannedPart>();
  readonly #repeats: PlannedRepeat[] = [];

  constructor(
    private readonly model: ModelShape,
    private readonly config: LoraConfig,
    private readonly source: string,
  ) {
    this.#modules = new Map(model.modules.map((module) => [module.name, module]));
  }

  plan(onUnmatched?: OnNote): AdapterPlan {
    const selection = resolveTargets(this.model, this.config, this.source, onUnmatched);
    const { targeted, saved, tiedTargets, tiedCopies } = this.#tie(selection.targeted, selection.modulesToSave);
    const { inputEmbedding: embedding, outputEmbedding: head } = this.model;
    for (const name of targeted) this.#target(this.#modules.get(name)!);
    if (tiedTargets) this.#tiedPair(embedding!, head!);
    for (const module of this.model.modules) {
      const owner = saved.find((name) => module.name === name || module.name.startsWith(`${name}.`));
      if (owner !== undefined) this.#save(module);
    }
    if (tiedCopies) this.#tiedCopy(embedding!, head!);
    this.#tokenRows();
    this.#biases(targeted);
    this.#baseCopies();
    const parts = [...this.#parts.values()];
    return {
      tensors: this.#tensors,
      parts,
      pairs: parts.flatMap(({ pair }) => pair ?? []),
      repeats: this.#repeats,
      targetModules: selection.targetModules,
    };
  }

  /** ensure_weight_tying: of a tied embedding and head the embedding is adapted and the head follows it. Full copies go first. */
  #tie(targeted: readonly string[], saved: readonly string[]) {
    const { tied, inputEmbedding: embedding, outputEmbedding: head } = this.model;
    const isEnd = (name: string) => name === embedding || name === head;
    const asked = this.config.ensureWeightTying && tied && embedding !== null && head !== null;
    const tiedCopies = asked && saved.some(isEnd);
    const tiedTargets = asked && !tiedCopies && targeted.some(isEnd);
    const first = (names: readonly string[]) => [embedding!, ...names.filter((name) => !isEnd(name))];
    return {
      targeted: tiedTargets ? first(targeted) : tiedCopies ? targeted.filter((name) => !isEnd(name)) : targeted,
      saved: tiedCopies ? first(saved) : saved,
      tiedTargets,
      tiedCopies,
    };
  }

  #target({ name, kind, tensors }: ModuleShape): void {
    const { config } = this;
    const [out = 0, input = 0] = tensors.weight ?? [];
    const [rank, scale, base] = [config.rankOf(name), config.scalingOf(name), `${PREFIX}${name}`];
    const magnitude = config.useDora ? `${base}.lora_magnitude_vector` : undefined;
    if (kind === "Embedding") {
      if (config.loraBias) throw this.#invalid(`lora_bias is not for embeddings such as ${name}`);
      const [a, b] = [`${base}.lora_embedding_B`, `${base}.lora_embedding_A`];
      this.#add(b, [rank, out], "embedding_A", name);
      this.#add(a, [input, rank], "embedding_B", name);
      if (magnitude !== undefined) this.#add(magnitude, [input], "magnitude", name);
      this.#part(name).pair = { module: name, a, b, bias: undefined, magnitude, rank, scale, transposed: true };
      return;
    }
    if (config.isOrthogonal && rank % 2 !== 0)
      throw this.#invalid(`orthogonal initialisation needs an even rank, found ${rank} for ${name}`);
    const [a, b] = [`${base}.lora_A.weight`, `${base}.lora_B.weight`];
    const bias = config.loraBias ? `${base}.lora_B.bias` : undefined;
    this.#add(a, [rank, input], "lora_A", name);
    this.#add(b, [out, rank], "lora_B", name);
    if (bias !== undefined) this.#add(bias, [out], "lora_bias", name);
    if (magnitude !== undefined) this.#add(magnitude, [out], "magnitude", name);
    this.#part(name).pair = { module: name, a, b, bias, magnitude, rank, scale, transposed: false };
  }

  /** The head reads the embedding's matrices, at a scale and, with DoRA, to lengths of its own. */
  #tiedPair(embedding: string, head: string): void {
    const pair = this.#parts.get(embedding)!.pair!;
    const { tensors } = this.#modules.get(head)!;
    const [out = 0, input = 0] = tensors.weight ?? [];
    const scale = this.config.scalingOf(head);
    const magnitude = this.config.useDora ? `${PREFIX}${head}.lora_magnitude_vector` : undefined;
    if (magnitude !== undefined) this.#add(magnitude, [out], "magnitude", head);
    const part = { pair: { ...pair, module: head, scale, magnitude } };
    Object.assign(this.#part(head), scale === pair.scale && magnitude === undefined ? { ...part, follows: true } : part);
    this.#repeats.push(
      { key: `${PREFIX}${head}.lora_A.weight`, shape: [pair.rank, input], of: { key: pair.a, transposed: true }, written: true },
      { key: `${PREFIX}${head}.lora_B.weight`, shape: [out, pair.rank], of: { key: pair.b, transposed: true }, written: true },
    );
  }

  #save({ name, tensors }: ModuleShape): void {
    for (const [own, shape] of Object.entries(tensors)) {
      const key = `${PREFIX}${name}.${own}`;
      this.#add(key, shape, "saved_copy", name);
      this.#part(name)[own as "weight" | "bias"] = key;
    }
    if (this.#parts.get(name)?.pair) throw this.#invalid(`${name} is in target_modules and in modules_to_save: one of the two`);
  }

  #tiedCopy(embedding: string, head: string): void {
    const key = this.#parts.get(embedding)!.weight!;
    Object.assign(this.#part(head), { weight: key, follows: true });
    const shape = this.#modules.get(head)!.tensors.weight!;
    this.#repeats.push({ key: `${PREFIX}${head}.weight`, shape, of: { key, transposed: false }, written: true });
  }

  /** trainable_token_indices: rows of the embedding, of a tied head too, or of the head alone. */
  #tokenRows(): void {
    const { trainableTokenIndices: indices, ensureWeightTying } = this.config;
    if (indices === null) return;
    const { tied, inputEmbedding: embedding, outputEmbedding: head } = this.model;
    const wanted = new Map<string, readonly number[]>();
    for (const [entry, ids] of Object.entries(Array.isArray(indices) ? { [embedding ?? ""]: indices } : indices)) {
      const names = [embedding, head].filter((name) => name?.endsWith(entry));
      if (names.length === 0) {
        throw this.#mismatched(
          `trainable_token_indices: '${entry}' is no embedding${didYouMean(entry, [embedding ?? "", head ?? ""])}`,
        );
      }
      for (const name of names) wanted.set(name!, ids);
    }
    const ofEmbedding = wanted.get(embedding ?? "");
    const ofHead = wanted.get(head ?? "");
    const same =
      !ofEmbedding || !ofHead || (ofEmbedding.length === ofHead.length && ofEmbedding.every((id, i) => id === ofHead[i]));
    if (tied && ensureWeightTying && !same) {
      throw this.#invalid(
        "ensure_weight_tying: trainable_token_indices lists other tokens for the embedding than for the head tied to it",
      );
    }
    const follows = tied && ofEmbedding !== undefined && same;
    for (const [name, ids] of wanted) if (!(follows && name === head)) this.#rowsOf(name, ids);
    if (!follows) return;
    const part = this.#part(head!);
    if (part.weight)
      throw this.#invalid(
        `${head} is in modules_to_save, and ${embedding}, tied to it, has trainable_token_indices: one of the two`,
      );
    part.rows = this.#parts.get(embedding!)!.rows!;
    if (!part.pair) part.follows = true;
  }

  #rowsOf(name: string, ids: readonly number[]): void {
    const [vocab = 0, d = 0] = this.#modules.get(name)?.tensors.weight ?? [];
    const outside = ids.filter((id) => !Number.isInteger(id) || id < 0 || id >= vocab);
    const twice = ids.filter((id, i) => ids.indexOf(id) !== i);
    if (outside.length > 0)
      throw this.#invalid(`trainable_token_indices: ${outside.join(", ")} do not lie in the vocabulary of ${vocab} tokens`);
    if (ids.length === 0 || twice.length > 0)
      throw this.#invalid(`trainable_token_indices: ${ids.length === 0 ? "no tokens" : `${twice.join(", ")} more than once`}`);
    const part = this.#part(name);
    if (part.pair || part.weight)
      throw this.#invalid(
        `${name} has trainable_token_indices and is in ${part.pair ? "target_modules" : "modules_to_save"}: one of the two`,
      );
    const key = `${PREFIX}${name}.token_adapter.trainable_tokens_delta`;
    this.#add(key, [ids.length, d], "token_rows", name);
    part.rows = { key, ids };
  }

  /** bias: those of the targeted linears, or all of the model's; where a module is saved whole, its copy has its own. */
  #biases(targeted: readonly string[]): void {
    const { bias: mode } = this.config;
    if (mode === "none") return;
    const adapted = new Set(targeted);
    for (const { name, tensors } of this.model.modules) {
      const part = this.#parts.get(name);
      if (!tensors.bias || part?.bias !== undefined || (mode === "lora_only" && !adapted.has(name))) continue;
      const key = `${PREFIX}${name}.${adapted.has(name) ? "base_layer.bias" : "bias"}`;
      this.#add(key, tensors.bias, "bias", name);
      this.#part(name).bias = key;
    }
  }

  /** save_embedding_layers = "auto": what a targeted embedding or head holds in the base goes with the adapter. */
  #baseCopies(): void {
    const written = namesEmbedding(this.model, this.config) && this.config.trainableTokenIndices === null;
    for (const name of [this.model.inputEmbedding, this.model.outputEmbedding]) {
      if (name === null || !this.#parts.get(name)?.pair) continue;
      const shape = this.#modules.get(name)!.tensors.weight!;
      this.#repeats.push({ key: `${PREFIX}${name}.base_layer.weight`, shape, of: { base: name }, written });
    }
  }

  #invalid(problem: string): LowrankError {
    return new LowrankError("INVALID_CONFIG", `${this.source} has a mistake:\n- ${problem}`, {
      details: { problems: [problem] },
    });
  }

  #mismatched(problem: string): LowrankError {
    return new LowrankError("ADAPTER_MISMATCH", `${this.source} does not fit the model:\n- ${problem}`, {
      details: { problems: [problem] },
    });
  }

  #add(key: string, shape: readonly number[], role: PlannedTensor["role"], module: string): void {
    this.#tensors.push({ key, shape, role, module });
  }

  #part(module: string): PlannedPart {
    let part = this.#parts.get(module);
    if (!part) {
      part = { module };
      this.#parts.set(module, part);
    }
    return part;
  }
}
