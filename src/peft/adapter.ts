import { existsSync } from "node:fs";
import { join } from "node:path";
import type { FolderWriter } from "../io/durable.js";
import { pathInside } from "../io/input.js";
import { readJsonFile } from "../io/json.js";
import { openSafetensors, refusePickle } from "../io/safetensors.js";
import { writeSafetensors } from "../io/safetensors-write.js";
import { AdapterPart, LoraPair, TokenRows } from "../nn/adapter-part.js";
import type { Adaptable } from "../nn/adapter-slot.js";
import { Embedding } from "../nn/embedding.js";
import { Linear } from "../nn/linear.js";
import { adaptables } from "../nn/watch.js";
import { ParameterArena } from "../optim/arena.js";
import type { Device } from "../tensor/device.js";
import { assertBaseCopies, checkKeys, fileEntries, fill } from "./adapter-file.js";
import { type AdapterBase, adapterBaseJson, assertSameBase, BASE_FILE, baseOf, readAdapterBase } from "./base.js";
import { LoraConfig } from "./config.js";
import { initialize } from "./init.js";
import { shapeOf } from "./model-shape.js";
import { type AdapterPlan, type BaseModel, type PlannedPair, type PlannedPart, planAdapter } from "./plan.js";

export const CONFIG_FILE = "adapter_config.json";
export const WEIGHTS_FILE = "adapter_model.safetensors";

/** The matrices of one adapter in an arena of their own, and how they were configured. */
export class Adapter {
  readonly config: LoraConfig;
  readonly plan: AdapterPlan;
  readonly arena: ParameterArena;
  /** What the side file of a loaded adapter says it was trained on. */
  #loadedFor: AdapterBase | undefined;
  /** Made or trained on the model it is on. */
  #ownBase = true;

  private constructor(config: LoraConfig, plan: AdapterPlan, device: Device) {
    this.config = config.with({ targetModules: plan.targetModules });
    this.plan = plan;
    this.arena = new ParameterArena(
      plan.tensors.map(({ key, shape }) => ({ name: key, shape })),
      device,
    );
  }

  /** A fresh adapter: A random, B zero (init_lora_weights true or "gaussian"), or both random (false). The same seed gives the same bits. */
  static create(model: BaseModel, config: LoraConfig, seed: number): Adapter {
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
  static async load(model: BaseModel, folder: string, options: { ignoreMismatchedBase?: boolean } = {}): Promise<Adapter> {
    const source = await pathInside(folder, CONFIG_FILE);
    const config = LoraConfig.fromJSON(await readJsonFile(source), source);
    const plan = planAdapter(shapeOf(model), config, source);
    // Before the keys: an adapter of another kind holds other tensors, and its kind is what is to be said.
    config.assertRunnable(false, source);
    const path = await pathInside(folder, WEIGHTS_FILE);
    if (!existsSync(path) && existsSync(join(folder, "adapter_model.bin"))) refusePickle(join(folder, "adapter_model.bin"));
    const file = await openSafetensors(path);
    try {
      checkKeys(file, plan, path);
      const loadedFor = await readAdapterBase(folder);
      if (!options.ignoreMismatchedBase) {
        if (loadedFor) await assertSameBase(model, loadedFor, folder);
        await assertBaseCopies(plan, file, model, path);
      }
      const adapter = new Adapter(config, plan, model.device);
      try {
        adapter.#loadedFor = loadedFor;
        adapter.#ownBase = false;
        await fill(adapter.arena, plan, file, path);
      } catch (error) {
        adapter.arena.dispose();
        throw error;
      }
      return adapter;
    } finally {
      await file.close();
    }
  }

  /** Puts the adapter's parts, as views of the arena that the slots then own, into the modules of a model. */
  attach(model: BaseModel, name: string): void {
    const modules = new Map(adaptables(model));
    for (const part of this.plan.parts) {
      const module = modules.get(part.module)!;
      module.adapters.parts.set(name, this.#part(part, module));
    }
  }

  #part({ pair, weight, bias, rows, follows }: PlannedPart, module: Adaptable): AdapterPart {
    const tensor = (key: string) => this.arena.get(key).retain();
    const optional = (key: string | undefined) => (key === undefined ? undefined : tensor(key));
    const vocab =
      module instanceof Embedding ? module.weight.shape[0]! : module instanceof Linear ? module.weight.outFeatures : 0;
    return new AdapterPart({
      pair: pair && this.#pair(pair),
      weight: optional(weight),
      bias: optional(bias),
      rows: rows && new TokenRows(rows.ids, vocab, tensor(rows.key)),
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
    const entries = fileEntries(this.plan, this.arena, values, model);
    await dir.file(`${prefix}${CONFIG_FILE}`, JSON.stringify(config.toJSON(), null, 2));
    await dir.file(`${prefix}${WEIGHTS_FILE}`, (sink) => writeSafetensors(sink, { format: "pt" }, entries));
    await dir.file(`${prefix}${BASE_FILE}`, adapterBaseJson(base));
    await dir.file(`${prefix}README.md`, card(config));
  }

  dispose(): void {
    this.arena.dispose();
  }
}

function card(config: LoraConfig): string {
  const base = config.baseModelNameOrPath ?? "unknown";
  const targets = typeof config.targetModules === "string" ? config.targetModules : (config.targetModules ?? []).join(", ");
  return [
    "---",
    // A path of this machine says nothing elsewhere: only Hub ids are named as base.
    ...(/^[\w.-]+\/[\w.-]+$/.test(base) ? [`base_model: ${base}`] : []),
    "library_name: peft",
    "tags:",
    "- lora",
    "- lowrank",
    "---",
    "",
    "# LoRA adapter",
    "",
    `Rank ${config.r}, alpha ${config.loraAlpha}, dropout ${config.loraDropout}, on ${targets}.`,
    "",
    "Load it with lowrank (`PeftModel.fromPretrained`) or PEFT (`PeftModel.from_pretrained`).",
    "",
  ].join("\n");
}
