import { AsyncLocalStorage } from "node:async_hooks";
import { LowrankError } from "../errors.js";
import type { FolderWriter } from "../io/durable.js";
import { type AdapterSelection, BASE_ONLY } from "../nn/adapter-slot.js";
import { Adapter } from "./adapter.js";
import { type LoadAdapterOptions, loadAdapter } from "./adapter-load.js";
import { saveAdapters, writeAdapters } from "./adapter-save.js";
import { AdapterSet, orDispose } from "./adapter-set.js";
import type { CombineOptions } from "./combine.js";
import { LoraConfig, type LoraConfigOptions } from "./config.js";
import { countWith, parametersText } from "./count.js";
import { contentOf, disposeContent, type MergeOptions, mergeInto, putBack, type Replaced } from "./merge.js";
import type { BaseModel } from "./plan.js";
import { type StartOptions, takesFromBase } from "./start.js";
import { weightedAdapter } from "./weighted.js";

/** A model that generates; what a PeftModel passes on. */
interface Generator {
  // biome-ignore lint/suspicious/noExplicitAny: the base model's own types are taken from M below
  generate(prompt: any, options?: any): Promise<string>;
  // biome-ignore lint/suspicious/noExplicitAny: as above
  stream(prompt: any, options?: any): AsyncIterableIterator<unknown>;
}

export interface CreateAdapterOptions extends StartOptions {
  /** Default 42. */
  seed?: number;
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
  readonly #adapters: AdapterSet;
  #active: readonly string[] = [];
  #disabled = 0;
  /** What merging replaced; empty when nothing is merged. */
  readonly #merged: Replaced[] = [];
  readonly #override = new AsyncLocalStorage<{ adapter: string | null }>();

  constructor(base: M) {
    this.base = base;
    this.#adapters = new AdapterSet(base);
  }

  /** A base with a fresh, trainable adapter of any initialisation; {@link getPeftModel} does it at once where the base's weights are not read. */
  static async create<M extends BaseModel & Generator>(
    base: M,
    config: LoraConfig | LoraConfigOptions,
    options: CreateAdapterOptions & { adapterName?: string } = {},
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
    return new Map(this.#adapters.names.map((name) => [name, this.#adapters.get(name).config]));
  }

  /** Names of the adapters that act now; their deltas are summed. */
  get activeAdapters(): readonly string[] {
    return this.#active;
  }

  /** Adds a fresh, trainable adapter. The first one becomes active. */
  addAdapter(name: string, config: LoraConfig, options: { seed?: number } = {}): void {
    this.#adapters.assertNew(name);
    this.#addFresh(name, Adapter.create(this.base, config, options.seed ?? 42));
  }

  /** As {@link PeftModel.addAdapter}, for initialisations that read the base's weights (pissa, pissa_niter_N, olora) too. */
  async createAdapter(name: string, config: LoraConfig, options: CreateAdapterOptions = {}): Promise<void> {
    this.#adapters.assertNew(name);
    if (takesFromBase(config)) this.#assertUnmerged("start from the base's weights");
    this.#addFresh(name, await Adapter.start(this.base, config, options.seed ?? 42, options));
  }

  #addFresh(name: string, adapter: Adapter): void {
    this.#adapters.add(name, adapter, true);
    if (this.#adapters.names.length === 1) this.setAdapter(name);
  }

  /** Loads an adapter beside the others; it does not become active. Throws ADAPTER_MISMATCH where file, configuration and base differ. */
  async loadAdapter(folder: string, name: string, options: LoadAdapterOptions = {}): Promise<void> {
    this.#adapters.assertNew(name);
    this.#adapters.add(name, await this.#read(folder, options), options.isTrainable === true);
  }

  /**
   * Puts the adapter of a folder in the place of a loaded one, of whatever rank, scales and targets; if that acts, the new one does from
   * the next call on. Until it is read the old one stays; a generation that uses it ends with DISPOSED.
   */
  async hotswapAdapter(folder: string, name: string, options: LoadAdapterOptions = {}): Promise<void> {
    this.#adapters.get(name);
    this.#assertUnmerged("replace an adapter");
    const adapter = await this.#read(folder, options);
    orDispose(adapter, () => {
      this.#assertUnmerged("replace an adapter");
      this.#adapters.replace(name, adapter, this.#active, options.isTrainable === true);
    });
  }

  async #read(folder: string, options: LoadAdapterOptions): Promise<Adapter> {
    const adapter = await loadAdapter(this.base, folder, options);
    orDispose(adapter, () => {
      if (adapter.startsFromBase) this.#assertUnmerged(`load ${folder}, which starts from the base's weights,`);
    });
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
    this.#adapters.assertNew(name);
    const sources = new Map(adapters.map((source) => [source, this.#adapters.get(source)]));
    if (sources.size < adapters.length) {
      throw new LowrankError("INVALID_ARGUMENT", "The adapters cannot be combined: one is named twice", {
        hint: "Add its weights up.",
      });
    }
    this.#adapters.add(name, await weightedAdapter(this.base, sources, weights, options), false);
  }

  /** Chooses which adapters act from the next call on: one, or several whose deltas are summed. Calls in progress keep theirs. */
  setAdapter(names: string | readonly string[]): void {
    const list = typeof names === "string" ? [names] : [...names];
    this.#adapters.assertSummable(list);
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
    if (name !== null) this.#adapters.get(name);
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
    for (const name of names) if (name !== null) this.#adapters.get(name);
    return { rows: names.map((name, i) => ({ begin: cuSeqlens[i]!, end: cuSeqlens[i + 1]!, name })) };
  }

  /** Removes an adapter; if it was the active one, the first that is left becomes active. A generation that uses it ends with DISPOSED. */
  deleteAdapter(name: string): void {
    this.#adapters.get(name);
    this.#assertUnmerged("delete an adapter");
    this.#adapters.delete(name);
    const rest = this.#active.filter((active) => active !== name);
    const [first] = this.#adapters.names;
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
    for (const name of this.#adapters.names) this.#adapters.delete(name);
    this.#active = [];
    this.#apply();
    return this.base;
  }

  /** Trainable and all parameters; a 4-bit weight counts its elements, not its bytes. */
  parameterCounts(): { trainable: number; all: number } {
    return countWith(this.base, this.#adapters.all);
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
    await saveAdapters(folder, this.#savable(selectedAdapters ?? this.#adapters.names), this.base, convertToLora);
  }

  /** The same into a folder that is being written, such as a checkpoint. */
  async write(dir: FolderWriter, names: readonly string[]): Promise<void> {
    await writeAdapters(dir, this.#savable(names), this.base, false);
  }

  #savable(names: readonly string[]): Map<string, Adapter> {
    const adapters = new Map(names.map((name) => [name, this.#adapters.get(name)]));
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
    this.#adapters.assertSummable(names);
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
