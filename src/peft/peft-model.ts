import { AsyncLocalStorage } from "node:async_hooks";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import type { FolderWriter } from "../io/durable.js";
import { type ResolveOptions, resolveModel } from "../io/hub.js";
import { type AdapterSelection, BASE_ONLY } from "../nn/adapter-slot.js";
import { adaptables } from "../nn/watch.js";
import type { OnNote } from "../notes.js";
import { Adapter } from "./adapter.js";
import { CONFIG_FILE } from "./adapter-file.js";
import { saveAdapters, writeAdapters } from "./adapter-save.js";
import type { CombineOptions } from "./combine.js";
import { LoraConfig, type LoraConfigOptions } from "./config.js";
import { countWith, parametersText } from "./count.js";
import { contentOf, disposeContent, type MergeOptions, mergeInto, putBack, type Replaced } from "./merge.js";
import type { BaseModel } from "./plan.js";
import { takesFromBase } from "./start.js";
import { weightedAdapter } from "./weighted.js";

/** A model that generates; what a PeftModel passes on. */
interface Generator {
  // biome-ignore lint/suspicious/noExplicitAny: the base model's own types are taken from M below
  generate(prompt: any, options?: any): Promise<string>;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  stream(prompt: any, options?: any): AsyncIterableIterator<unknown>;
}

export interface LoadAdapterOptions extends ResolveOptions {
  /** Trainable: gradients are allocated. */
  isTrainable?: boolean;
  /** Folder inside the adapter's folder. */
  subfolder?: string;
  /** Load an adapter whose side file names another base than this one. */
  ignoreMismatchedBase?: boolean;
  /** Told which keys of adapter_config.json have no effect here. Default: a process warning. */
  onNote?: OnNote;
}

export interface SaveAdapterOptions {
  /** Default: all. */
  selectedAdapters?: readonly string[];
  /** Write adapters that started from the base's weights (PiSSA, OLoRA) as plain LoRA of twice the rank, which fits the base as it is. */
  convertToLora?: boolean;
}

/** A base model with adapters in the slots of its linears. Paths and weights of the base stay what they are. */
export class PeftModel<M extends BaseModel & Generator = BaseModel & Generator> {
  readonly base: M;
  readonly #adapters = new Map<string, Adapter>();
  #active: readonly string[] = [];
  #disabled = 0;
  /** What merging replaced; empty when nothing is merged. */
  readonly #merged: Replaced[] = [];
  readonly #override = new AsyncLocalStorage<{ adapter: string | null }>();

  constructor(base: M) {
    this.base = base;
  }

  /** A base with a fresh, trainable adapter of any initialisation; {@link getPeftModel} does it at once where the base's weights are not read. */
  static async create<M extends BaseModel & Generator>(
    base: M,
    config: LoraConfig | LoraConfigOptions,
    options: { adapterName?: string; seed?: number } = {},
  ): Promise<PeftModel<M>> {
    const peft = new PeftModel(base);
    await peft.createAdapter(
      options.adapterName ?? "default",
      config instanceof LoraConfig ? config : new LoraConfig(config),
      options,
    );
    return peft;
  }

  /** Loads an adapter from a folder or the Hub onto a base and activates it. */
  static async fromPretrained<M extends BaseModel & Generator>(
    base: M,
    folder: string,
    options: LoadAdapterOptions & { adapterName?: string } = {},
  ): Promise<PeftModel<M>> {
    const peft = new PeftModel(base);
    const name = options.adapterName ?? "default";
    await peft.loadAdapter(folder, name, options);
    peft.setAdapter(name);
    return peft;
  }

  /** The configurations of all adapters by name. */
  get peftConfig(): ReadonlyMap<string, LoraConfig> {
    return new Map([...this.#adapters].map(([name, { config }]) => [name, config]));
  }

  /** Names of the adapters that act now; their deltas are summed. */
  get activeAdapters(): readonly string[] {
    return this.#active;
  }

  /** Adds a fresh, trainable adapter. The first one becomes active. */
  addAdapter(name: string, config: LoraConfig, options: { seed?: number } = {}): void {
    this.#assertNew(name);
    this.#addFresh(name, Adapter.create(this.base, config, options.seed ?? 42));
  }

  /** As {@link PeftModel.addAdapter}, for initialisations that read the base's weights (pissa, pissa_niter_N, olora) too. */
  async createAdapter(name: string, config: LoraConfig, options: { seed?: number } = {}): Promise<void> {
    this.#assertNew(name);
    if (takesFromBase(config)) this.#assertUnmerged("start from the base's weights");
    this.#addFresh(name, await Adapter.start(this.base, config, options.seed ?? 42));
  }

  #addFresh(name: string, adapter: Adapter): void {
    this.#add(name, adapter, true);
    if (this.#adapters.size === 1) this.setAdapter(name);
  }

  /** Loads an adapter beside the others; it does not become active. Throws ADAPTER_MISMATCH where file, configuration and base differ. */
  async loadAdapter(folder: string, name: string, options: LoadAdapterOptions = {}): Promise<void> {
    this.#assertNew(name);
    this.#add(name, await this.#read(folder, options), options.isTrainable === true);
  }

  /**
   * Puts the adapter of a folder in the place of a loaded one, of whatever rank, scales and targets; if that acts, the new one does from
   * the next call on. Until it is read the old one stays; a generation that uses it ends with DISPOSED.
   */
  async hotswapAdapter(folder: string, name: string, options: LoadAdapterOptions = {}): Promise<void> {
    this.#get(name);
    this.#assertUnmerged("replace an adapter");
    const adapter = await this.#read(folder, options);
    try {
      const former = this.#get(name);
      this.#assertUnmerged("replace an adapter");
      if (
        this.#active.length > 1 &&
        this.#active.includes(name) &&
        adapter.plan.parts.some((part) => part.weight ?? part.bias ?? part.rows)
      ) {
        throw new LowrankError(
          "INVALID_ARGUMENT",
          `${folder} does more than add deltas, and '${name}' acts together with others`,
          {
            hint: `Call setAdapter("${name}") first.`,
          },
        );
      }
      if (options.isTrainable) adapter.setTrainable(true);
      former.detach(this.base, name);
      former.dispose();
    } catch (error) {
      adapter.dispose();
      throw error;
    }
    this.#adapters.set(name, adapter);
    adapter.attach(this.base, name);
  }

  async #read(folder: string, options: LoadAdapterOptions): Promise<Adapter> {
    const root = await resolveModel(folder, options);
    const path = options.subfolder === undefined ? root : join(root, options.subfolder);
    if (!existsSync(join(path, CONFIG_FILE))) {
      throw new LowrankError("NOT_FOUND", `${path} holds no adapter: ${CONFIG_FILE} is missing`, {
        hint: "Give the folder that an adapter was saved to.",
      });
    }
    const adapter = await Adapter.load(this.base, path, options);
    try {
      if (adapter.startsFromBase) this.#assertUnmerged(`load ${path}, which starts from the base's weights,`);
    } catch (error) {
      adapter.dispose();
      throw error;
    }
    return adapter;
  }

  /**
   * Adds an adapter combined of others (PEFT's add_weighted_adapter, all its kinds); it does not become active. It acts at scale 1: what
   * scales and rsLoRA did is in its matrices. Throws NOT_FOUND, INVALID_ARGUMENT, or UNSUPPORTED for adapters with more than LoRA matrices.
   */
  async addWeightedAdapter(
    adapters: readonly string[],
    weights: readonly number[],
    name: string,
    options: CombineOptions = {},
  ): Promise<void> {
    this.#assertNew(name);
    const sources = new Map(adapters.map((source) => [source, this.#get(source)]));
    if (sources.size < adapters.length) {
      throw new LowrankError("INVALID_ARGUMENT", "The adapters cannot be combined: one is named twice", {
        hint: "Add its weights up.",
      });
    }
    this.#add(name, await weightedAdapter(this.base, sources, weights, options), false);
  }

  /** Chooses which adapters act from the next call on: one, or several whose deltas are summed. Calls in progress keep theirs. */
  setAdapter(names: string | readonly string[]): void {
    const list = typeof names === "string" ? [names] : [...names];
    for (const name of list) this.#get(name);
    if (list.length > 1) this.#assertSummable(list);
    this.#active = list;
    this.#apply();
  }

  /** Switches all adapters off until the result is disposed. */
  disableAdapter(): Disposable {
    this.#disabled++;
    this.#apply();
    let done = false;
    return {
      [Symbol.dispose]: () => {
        if (done) return;
        done = true;
        this.#disabled--;
        this.#apply();
      },
    };
  }

  /** Runs `body` with one adapter, or with the base alone; only for calls made inside, so concurrent requests never mix. */
  withAdapter<T>(name: string | null, body: () => Promise<T>): Promise<T> {
    if (name !== null) this.#get(name);
    this.#assertUnmerged("run with another adapter");
    return this.#override.run({ adapter: name }, body);
  }

  /**
   * A selection for a mixed batch: `names[i]` acts on sequence i, whose rows are cuSeqlens[i] to cuSeqlens[i + 1]; null is the base
   * alone. Throws INVALID_ARGUMENT or NOT_FOUND. @param cuSeqlens [sequences + 1]
   */
  selectRows(cuSeqlens: ArrayLike<number>, names: readonly (string | null)[]): AdapterSelection {
    this.#assertUnmerged("choose adapters by row");
    if (names.length !== cuSeqlens.length - 1) {
      throw new LowrankError(
        "INVALID_ARGUMENT",
        `The batch has ${cuSeqlens.length - 1} sequences, adapters are named for ${names.length}`,
      );
    }
    for (const name of names) if (name !== null) this.#get(name);
    return { rows: names.map((name, i) => ({ begin: cuSeqlens[i]!, end: cuSeqlens[i + 1]!, name })) };
  }

  /** Removes an adapter; if it was the active one, the first that is left becomes active. A generation that uses it ends with DISPOSED. */
  deleteAdapter(name: string): void {
    const adapter = this.#get(name);
    this.#assertUnmerged("delete an adapter");
    adapter.detach(this.base, name);
    adapter.dispose();
    this.#adapters.delete(name);
    const rest = this.#active.filter((active) => active !== name);
    const [first] = this.#adapters.keys();
    this.#active = rest.length > 0 || first === undefined ? rest : [first];
    this.#apply();
  }

  /** Adds the adapters' deltas to the base weights in place; {@link PeftModel.unmergeAdapter} puts the old weights back, bit for bit. */
  async mergeAdapter(options: Omit<MergeOptions, "dtype"> = {}): Promise<void> {
    this.#assertUnmerged("merge");
    this.#merged.push(...(await this.#merge(options)));
    this.#apply();
  }

  unmergeAdapter(): void {
    for (const replaced of this.#merged) putBack(replaced);
    this.#merged.length = 0;
    this.#apply();
  }

  /** Merges for good and removes all adapters; returns the base model. A 4-bit base is quantised again, which rounds, unless `dtype` is given. */
  async mergeAndUnload(options: MergeOptions = {}): Promise<M> {
    this.unmergeAdapter();
    const merged = await this.#merge(options);
    for (const { module, old } of merged) disposeContent(old, contentOf(module));
    if (merged.length > 0) this.base.weightsChanged();
    return this.unload();
  }

  /** Removes all adapters without merging; returns the base model. */
  unload(): M {
    this.unmergeAdapter();
    for (const [name, adapter] of this.#adapters) {
      adapter.detach(this.base, name);
      adapter.dispose();
    }
    this.#adapters.clear();
    this.#active = [];
    this.#apply();
    return this.base;
  }

  /** Trainable and all parameters; a 4-bit weight counts its elements, not its bytes. */
  parameterCounts(): { trainable: number; all: number } {
    return countWith(this.base, [...this.#adapters.values()]);
  }

  /** The line that PEFT prints. */
  trainableParametersText(): string {
    const { trainable, all } = this.parameterCounts();
    return parametersText(trainable, all);
  }

  printTrainableParameters(): void {
    console.log(this.trainableParametersText());
  }

  /** The adapter that trains: the active one. */
  get trainable(): Adapter {
    const [name, ...more] = this.#active;
    const adapter = name === undefined ? undefined : this.#adapters.get(name);
    if (!adapter || more.length > 0) {
      throw new LowrankError("INVALID_ARGUMENT", `Training needs exactly one active adapter, ${this.#active.length} are active`, {
        hint: "Call setAdapter(name).",
      });
    }
    return adapter;
  }

  /** Saves adapters in PEFT's form: "default" in the folder itself, others in subfolders of their name. */
  async savePretrained(folder: string, { selectedAdapters, convertToLora = false }: SaveAdapterOptions = {}): Promise<void> {
    await saveAdapters(folder, this.#savable(selectedAdapters ?? [...this.#adapters.keys()]), this.base, convertToLora);
  }

  /** The same into a folder that is being written, such as a checkpoint. */
  async write(dir: FolderWriter, names: readonly string[]): Promise<void> {
    await writeAdapters(dir, this.#savable(names), this.base, false);
  }

  #savable(names: readonly string[]): Map<string, Adapter> {
    const adapters = new Map(names.map((name) => [name, this.#get(name)]));
    // Copies of the base's embeddings go with an adapter that targets them.
    if ([...adapters.values()].some(({ plan }) => plan.repeats.some(({ written }) => written))) this.#assertUnmerged("save");
    return adapters;
  }

  generate(
    prompt: Parameters<M["generate"]>[0],
    options: NonNullable<Parameters<M["generate"]>[1]> | object = {},
  ): Promise<string> {
    return this.base.generate(prompt, { ...this.#override.getStore(), ...options });
  }

  stream(
    prompt: Parameters<M["stream"]>[0],
    options: NonNullable<Parameters<M["stream"]>[1]> | object = {},
  ): ReturnType<M["stream"]> {
    return this.base.stream(prompt, { ...this.#override.getStore(), ...options }) as ReturnType<M["stream"]>;
  }

  /** Frees adapters and base. Idempotent. */
  dispose(): void {
    this.unload().dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }

  /** Takes an adapter over; frees it when it cannot be added. */
  #add(name: string, adapter: Adapter, trainable: boolean): void {
    try {
      this.#assertNew(name);
      if (trainable) adapter.setTrainable(true);
    } catch (error) {
      adapter.dispose();
      throw error;
    }
    this.#adapters.set(name, adapter);
    adapter.attach(this.base, name);
  }

  #get(name: string): Adapter {
    const adapter = this.#adapters.get(name);
    if (adapter) return adapter;
    const known = [...this.#adapters.keys()].join(", ");
    throw new LowrankError("NOT_FOUND", `There is no adapter '${name}'`, {
      hint: known ? `Loaded: ${known}.` : "No adapter is loaded.",
    });
  }

  #assertNew(name: string): void {
    if (name === "" || name.includes("/") || name.includes("\\") || name === "." || name === "..") {
      throw new LowrankError("INVALID_ARGUMENT", `'${name}' cannot be the name of an adapter: it names a folder`);
    }
    if (this.#adapters.has(name))
      throw new LowrankError("INVALID_ARGUMENT", `There is an adapter '${name}' already`, {
        hint: "Delete it first, or use another name.",
      });
  }

  /** Deltas add up; of weights, biases and rows that stand in for the base's only one set can. */
  #assertSummable(names: readonly string[]): void {
    for (const [path, { adapters }] of adaptables(this.base)) {
      const parts = adapters.of(names);
      for (const what of ["weight", "bias", "rows"] as const) {
        if (parts.filter((part) => part[what]).length < 2) continue;
        throw new LowrankError(
          "INVALID_ARGUMENT",
          `Cannot activate ${names.join(", ")} at once: several replace the ${what} of ${path}`,
          {
            hint: "Activate one of those with modules_to_save, bias or trainable_token_indices at a time.",
          },
        );
      }
    }
  }

  #assertUnmerged(what: string): void {
    if (this.#merged.length > 0)
      throw new LowrankError("INVALID_ARGUMENT", `Cannot ${what} while adapters are merged`, {
        hint: "Call unmergeAdapter() first.",
      });
  }

  /** What is merged is in the weights: then, and while disabled, no adapter acts on top. */
  #apply(): void {
    this.base.adapters = this.#disabled > 0 || this.#merged.length > 0 ? BASE_ONLY : { names: this.#active };
  }

  #merge(options: MergeOptions): Promise<Replaced[]> {
    const names = options.adapterNames ?? this.#active;
    for (const name of names) this.#get(name);
    return mergeInto(this.base, names, options);
  }
}

/** Puts a fresh, trainable adapter on a model. Throws INVALID_CONFIG or ADAPTER_MISMATCH listing every mistake. */
export function getPeftModel<M extends BaseModel & Generator>(
  model: M,
  config: LoraConfig | LoraConfigOptions,
  options: { adapterName?: string; seed?: number } = {},
): PeftModel<M> {
  const peft = new PeftModel(model);
  peft.addAdapter(options.adapterName ?? "default", config instanceof LoraConfig ? config : new LoraConfig(config), options);
  return peft;
}
