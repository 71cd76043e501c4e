import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import type { FolderWriter } from "../io/durable.js";
import { pathInside } from "../io/input.js";
import { readJsonFile } from "../io/json.js";
import { openSafetensors, refusePickle } from "../io/safetensors.js";
import { writeSafetensors } from "../io/safetensors-write.js";
import { AdapterPart, type Delta, LoraPair, TokenRows } from "../nn/adapter-part.js";
import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import { adaptables } from "../nn/watch.js";
import { noteUnread, type OnNote, quiet, warn } from "../notes.js";
import { copyInto } from "../ops/copy.js";
import { sameShape } from "../ops/kernel.js";
import { ParameterArena } from "../optim/arena.js";
import type { Device } from "../tensor/device.js";
import { scope } from "../tensor/scope.js";
import { Tensor } from "../tensor/tensor.js";
import { assertBaseCopies, CONFIG_FILE, card, checkKeys, fileEntries, fill, WEIGHTS_FILE } from "./adapter-file.js";
import { type AdapterBase, adapterBaseJson, assertSameBase, BASE_FILE, baseOf, readAdapterBase } from "./base.js";
import { LoraConfig } from "./config.js";
import { doubledConfig, fillDoubled } from "./convert.js";
import { initialize } from "./init.js";
import { type ModelShape, shapeOf } from "./model-shape.js";
import { type AdapterPlan, type BaseModel, type PlannedPair, type PlannedPart, planAdapter } from "./plan.js";
import { type Start, type StartOptions, startOf, startsOf, takesAtRandom, takesFromBase } from "./start.js";

/** The matrices of one adapter in an arena of their own, and how they were configured. */
export class Adapter {
  readonly config: LoraConfig;
  readonly plan: AdapterPlan;
  readonly arena: ParameterArena;
  /** What the side file of a loaded adapter says it was trained on. */
  #loadedFor: AdapterBase | undefined;
  /** Made or trained on the model it is on. */
  #ownBase = true;
  /** What pairs started from, by module: float32 a [r, in] and b [out, r], which the base acts without. */
  readonly #starts = new Map<string, { a: Tensor; b: Tensor }>();

  private constructor(config: LoraConfig, plan: AdapterPlan, device: Device) {
    this.config = config.with({ targetModules: plan.targetModules });
    this.plan = plan;
    this.arena = new ParameterArena(
      plan.tensors.map(({ key, shape }) => ({ name: key, shape })),
      device,
    );
  }

  /**
   * A fresh adapter, see {@link initialize}. The same seed gives the same bits. Throws INVALID_ARGUMENT for initialisations that read the
   * base's weights: {@link Adapter.start}.
   */
  static create(model: BaseModel, config: LoraConfig, seed: number): Adapter {
    if (takesFromBase(config)) {
      throw new LowrankError(
        "INVALID_ARGUMENT",
        `init_lora_weights = "${config.initLoraWeights}" reads the base's weights, which takes a while`,
        {
          hint: "await PeftModel.create(model, config), or await peft.createAdapter(name, config).",
        },
      );
    }
    return Adapter.#fresh(model, config, seed);
  }

  /** A fresh adapter of any initialisation. */
  static async start(model: BaseModel, config: LoraConfig, seed: number, options?: StartOptions): Promise<Adapter> {
    const adapter = Adapter.#fresh(model, config, seed);
    try {
      const starts = await startsOf(model, config, adapter.plan, options);
      for (const { pair, a, b } of starts) {
        adapter.arena.get(pair.a).upload(a);
        adapter.arena.get(pair.b).upload(b);
      }
      adapter.#keep(starts);
    } catch (error) {
      adapter.dispose();
      throw error;
    }
    return adapter;
  }

  static #fresh(model: BaseModel, config: LoraConfig, seed: number): Adapter {
    const plan = planAdapter(shapeOf(model), config);
    config.assertRunnable(true);
    const adapter = new Adapter(config, plan, model.device);
    try {
      initialize(model, config, plan, adapter.arena, seed);
    } catch (error) {
      adapter.dispose();
      throw error;
    }
    return adapter;
  }

  /** An adapter of zeros, to be filled. */
  static empty(model: BaseModel, config: LoraConfig, plan: AdapterPlan): Adapter {
    return new Adapter(config, plan, model.device);
  }

  /**
   * Reads adapter_config.json and adapter_model.safetensors of PEFT's format. Throws what is wrong with either, all at once, and
   * ADAPTER_MISMATCH when a side file names another base, unless `ignoreMismatchedBase`.
   */
  static async load(
    model: BaseModel,
    folder: string,
    options: { ignoreMismatchedBase?: boolean; onNote?: OnNote; signal?: AbortSignal } = {},
  ): Promise<Adapter> {
    const { source, config, plan } = await readConfig(folder, shapeOf(model), options.onNote);
    const path = await pathInside(folder, WEIGHTS_FILE);
    if (!existsSync(path) && existsSync(join(folder, "adapter_model.bin"))) refusePickle(join(folder, "adapter_model.bin"));
    const file = await openSafetensors(path);
    try {
      checkKeys(file, plan, path);
      const loadedFor = await readAdapterBase(folder);
      if (loadedFor && !options.ignoreMismatchedBase) await assertSameBase(model, loadedFor, folder);
      const adapter = new Adapter(config, plan, model.device);
      try {
        adapter.#loadedFor = loadedFor;
        adapter.#ownBase = false;
        if (takesAtRandom(config) && !loadedFor) throw unknownStart(config, source);
        adapter.#keep(await startsOf(model, config, plan, { signal: options.signal }));
        await fill(adapter.arena, plan, file, path);
        if (!options.ignoreMismatchedBase) await assertBaseCopies(plan, file, model, path, adapter.#taken);
      } catch (error) {
        adapter.dispose();
        throw error;
      }
      return adapter;
    } finally {
      await file.close();
    }
  }

  /**
   * Reads an adapter for a model of that shape which is not in memory; `base` says what it is, hash null: whatever the side file says.
   * What it started from is taken from the base tensor by tensor, {@link Adapter.startOn}.
   */
  static async open(
    shape: ModelShape,
    device: Device,
    folder: string,
    base: { hash: string | null; nameOrPath: string },
    onNote?: OnNote,
  ): Promise<Adapter> {
    const { source, config, plan } = await readConfig(folder, shape, onNote);
    const loadedFor = await readAdapterBase(folder);
    if (takesAtRandom(config) && !loadedFor) throw unknownStart(config, source);
    if (loadedFor && base.hash !== null) {
      await assertSameBase({ baseHash: () => Promise.resolve(base.hash), nameOrPath: base.nameOrPath }, loadedFor, folder);
    }
    const path = await pathInside(folder, WEIGHTS_FILE);
    const file = await openSafetensors(path);
    try {
      checkKeys(file, plan, path);
      const adapter = new Adapter(config, plan, device);
      try {
        await fill(adapter.arena, plan, file, path);
      } catch (error) {
        adapter.dispose();
        throw error;
      }
      return adapter;
    } finally {
      await file.close();
    }
  }

  /** Takes from the base's weight in one module what its pair there started from. @param weight [out, in] */
  async startOn(module: string, weight: Tensor): Promise<void> {
    const pair = this.plan.pairs.find((planned) => planned.module === module && !planned.transposed);
    if (pair && takesFromBase(this.config)) this.#keep([await startOf(weight, pair, this.config)]);
  }

  /** What goes into one module, as views of the arena that the caller then owns. @param shape of the module's weight */
  partOf(module: string, isTable: boolean, shape: readonly number[]): AdapterPart | undefined {
    const planned = this.plan.parts.find((part) => part.module === module);
    return planned && this.#part(planned, isTable || shape.length === 2 ? shape[0]! : 0);
  }

  #keep(starts: readonly Start[]): void {
    for (const { pair, a, b } of starts) {
      const [out, rank, input] = [b.length / pair.rank, pair.rank, a.length / pair.rank];
      const device = this.arena.device;
      const tensors = scope(() => ({ a: Tensor.from(a, [rank, input], { device }), b: Tensor.from(b, [out, rank], { device }) }));
      this.#starts.set(pair.module, { a: tensors.a.keep(), b: tensors.b.keep() });
    }
  }

  /** What the base acts without in a module. */
  readonly #taken = (module: string): Delta | undefined => {
    const start = this.#starts.get(module);
    return start && { ...start, scale: -this.plan.pairs.find((pair) => pair.module === module)!.scale, dropout: 0 };
  };

  /** Whether the base acts without something that the pairs started from, so that other programs must take that away too. */
  get startsFromBase(): boolean {
    return this.#starts.size > 0;
  }

  /**
   * The same as plain LoRA of twice the rank, [a; a₀] and [b, −b₀], which works on the base as it is (PEFT's
   * path_initial_model_for_weight_conversion). The caller owns it.
   */
  async converted(model: BaseModel): Promise<Adapter> {
    const doubled = doubledConfig(this.config);
    const plain = new Adapter(doubled, planAdapter(shapeOf(model), doubled, undefined, quiet), model.device);
    try {
      for (const { key } of plain.plan.tensors) {
        const from = this.arena.get(key);
        if (sameShape(plain.arena.get(key), from)) copyInto(plain.arena.get(key), from);
      }
      for (const pair of plain.plan.pairs) await fillDoubled(plain.arena, pair, this.arena, this.#starts.get(pair.module));
    } catch (error) {
      plain.dispose();
      throw error;
    }
    plain.#loadedFor = this.#loadedFor;
    plain.#ownBase = this.#ownBase;
    return plain;
  }

  /** Puts the adapter's parts, as views of the arena that the slots then own, into the modules of a model. */
  attach(model: BaseModel, name: string): void {
    const modules = new Map(adaptables(model));
    for (const part of this.plan.parts) {
      const module = modules.get(part.module)!;
      const rows =
        module instanceof Embedding ? module.weight.shape[0]! : module instanceof Linear ? module.weight.outFeatures : 0;
      module.adapters.parts.set(name, this.#part(part, rows));
    }
  }

  /** @param vocab rows of the module's table, for single rows of it */
  #part(part: PlannedPart, vocab: number): AdapterPart {
    const { pair, weight, bias, rows, follows } = part;
    const tensor = (key: string) => this.arena.get(key).retain();
    const optional = (key: string | undefined) => (key === undefined ? undefined : tensor(key));
    const start = this.#starts.get(part.module);
    return new AdapterPart({
      pair: pair && this.#pair(pair),
      weight: optional(weight),
      bias: optional(bias),
      rows: rows && new TokenRows(rows.ids, vocab, tensor(rows.key)),
      offset: start && new LoraPair(start.a.retain(), start.b.retain(), -pair!.scale),
      follows: follows ?? false,
    });
  }

  #pair({ a, b, scale, bias, transposed, magnitude }: PlannedPair): LoraPair {
    const tensor = (key: string) => this.arena.get(key).retain();
    const optional = (key: string | undefined) => (key === undefined ? undefined : tensor(key));
    return new LoraPair(tensor(a), tensor(b), scale, this.config.loraDropout, optional(bias), transposed, optional(magnitude));
  }

  detach(model: BaseModel, name: string): void {
    for (const [, { adapters }] of adaptables(model)) {
      adapters.parts.get(name)?.dispose();
      adapters.parts.delete(name);
    }
  }

  /** Bytes that `write` puts into a folder, nearly. */
  get byteLength(): number {
    return this.arena.size * 4 + 65_536;
  }

  /** Makes it train, or freezes it. What has trained is saved as an adapter of this model, whatever it was loaded for. */
  setTrainable(trainable: boolean): void {
    this.#ownBase ||= trainable;
    this.arena.setTrainable(trainable);
  }

  /** Writes the two files as PEFT does, float32, plus a card and the side file, into a folder of the durable writer. */
  async write(dir: FolderWriter, prefix: string, model: BaseModel): Promise<void> {
    const baseModelNameOrPath = this.config.baseModelNameOrPath ?? model.nameOrPath;
    const config = this.config.with({ inferenceMode: true, baseModelNameOrPath });
    const unknown = { nameOrPath: baseModelNameOrPath, hash: null, quantization: null };
    const base = this.#ownBase ? await baseOf(model) : (this.#loadedFor ?? unknown);
    const values = await this.arena.values.readFloat32();
    const entries = fileEntries(this.plan, this.arena, values, model, this.#taken);
    await dir.file(`${prefix}${CONFIG_FILE}`, JSON.stringify(config.toJSON(), null, 2));
    await dir.file(`${prefix}${WEIGHTS_FILE}`, (sink) => writeSafetensors(sink, { format: "pt" }, entries));
    await dir.file(`${prefix}${BASE_FILE}`, adapterBaseJson(base));
    await dir.file(`${prefix}README.md`, card(config));
  }

  dispose(): void {
    for (const { a, b } of this.#starts.values()) for (const tensor of [a, b]) tensor.dispose();
    this.#starts.clear();
    this.arena.dispose();
  }
}

/** The configuration of an adapter's folder and what it makes of a model, refused where it asks for what is not computed. */
async function readConfig(folder: string, shape: ModelShape, onNote: OnNote | undefined) {
  const source = await pathInside(folder, CONFIG_FILE);
  const config = LoraConfig.fromJSON(await readJsonFile(source), source);
  const plan = planAdapter(shape, config, source, onNote ?? warn);
  // Before the keys of the weights: an adapter of another kind holds other tensors, and its kind is what is to be said.
  config.assertRunnable(false, source);
  noteUnread(CONFIG_FILE, folder, Object.entries(config.unknownKeys), onNote);
  return { source, config, plan };
}

function unknownStart({ initLoraWeights }: LoraConfig, source: string): LowrankError {
  return new LowrankError(
    "UNSUPPORTED",
    `${source}: what was taken from the base with "${initLoraWeights}" was drawn at random and is not in the file`,
    {
      hint: "Convert the adapter to plain LoRA where it was made: PEFT's save_pretrained with path_initial_model_for_weight_conversion.",
    },
  );
}
