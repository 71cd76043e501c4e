import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import type { FolderWriter } from "../io/durable.js";
import { readFloat32 } from "../io/float32.js";
import { pathInside } from "../io/input.js";
import { readJsonFile } from "../io/json.js";
import { openSafetensors, refusePickle, type TensorSource } from "../io/safetensors.js";
import { writeSafetensors } from "../io/safetensors-write.js";
import { LoraPair } from "../nn/adapter-slot.js";
import { Linear } from "../nn/linear.js";
import { fillRandom } from "../ops/random.js";
import { ParameterArena } from "../optim/arena.js";
import type { Device } from "../tensor/device.js";
import { randomKey } from "../tensor/random.js";
import { type AdapterBase, adapterBaseJson, assertSameBase, BASE_FILE, baseOf, readAdapterBase } from "./base.js";
import { LoraConfig } from "./config.js";
import { type AdapterPlan, type BaseModel, type PlannedTensor, planAdapter } from "./plan.js";

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
    const plan = planAdapter(model, config);
    config.assertRunnable(true);
    assertComputed(model, plan, "the LoRA configuration");
    const adapter = new Adapter(config, plan, model.device);
    for (const tensor of plan.tensors) initialize(adapter, tensor, seed);
    return adapter;
  }

  /**
   * Reads adapter_config.json and adapter_model.safetensors of PEFT's format. Throws what is wrong with either, all at once, and
   * ADAPTER_MISMATCH when a side file names another base, unless `ignoreMismatchedBase`.
   */
  static async load(model: BaseModel, folder: string, options: { ignoreMismatchedBase?: boolean } = {}): Promise<Adapter> {
    const source = await pathInside(folder, CONFIG_FILE);
    const config = LoraConfig.fromJSON(await readJsonFile(source), source);
    const plan = planAdapter(model, config, source);
    // Before the keys: an adapter of another kind holds other tensors, and its kind is what is to be said.
    config.assertRunnable(false, source);
    assertComputed(model, plan, source);
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
        await fill(adapter.arena, file, path);
      } catch (error) {
        adapter.arena.dispose();
        throw error;
      }
      return adapter;
    } finally {
      await file.close();
    }
  }

  /** The pairs by module, as views of the arena that their slots then own. */
  attach(model: BaseModel, name: string): void {
    const modules = new Map(model.modules());
    const tensor = (key: string) => this.arena.get(key).retain();
    for (const { module, a, b, bias, scale } of this.plan.pairs) {
      const linear = modules.get(module) as Linear;
      const pair = new LoraPair(
        tensor(a),
        tensor(b),
        scale,
        this.config.loraDropout,
        bias === undefined ? undefined : tensor(bias),
      );
      linear.adapters.pairs.set(name, pair);
    }
  }

  detach(model: BaseModel, name: string): void {
    for (const [, module] of model.modules()) {
      if (!(module instanceof Linear)) continue;
      module.adapters.pairs.get(name)?.dispose();
      module.adapters.pairs.delete(name);
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
    const entries = this.arena.segments.map(({ name, shape, begin, end }) => ({
      name,
      dtype: "F32" as const,
      shape,
      bytes: () => new Uint8Array(values.buffer, values.byteOffset + begin * 4, (end - begin) * 4),
    }));
    await dir.file(`${prefix}${CONFIG_FILE}`, JSON.stringify(config.toJSON(), null, 2));
    await dir.file(`${prefix}${WEIGHTS_FILE}`, (sink) => writeSafetensors(sink, { format: "pt" }, entries));
    await dir.file(`${prefix}${BASE_FILE}`, adapterBaseJson(base));
    await dir.file(`${prefix}README.md`, card(config));
  }

  dispose(): void {
    this.arena.dispose();
  }
}

function initialize({ arena, config, plan }: Adapter, { key, shape, role }: PlannedTensor, seed: number): void {
  const random = config.initLoraWeights === false;
  if (role !== "lora_A" && !random) return; // the arena starts at zero
  const [rows = 1, columns = 1] = shape;
  const gaussian = String(config.initLoraWeights).toLowerCase() === "gaussian";
  // Kaiming uniform with a = √5 is U(±1/√fan_in), which a bias shares with the matrix before it.
  const fanIn = plan.pairs.find(({ bias }) => bias === key)?.rank ?? columns;
  const bound = 1 / Math.sqrt(fanIn);
  fillRandom(
    arena.get(key),
    gaussian ? { normal: { mean: 0, std: 1 / rows } } : { uniform: { low: -bound, high: bound } },
    randomKey(seed, key),
  );
}

/** Refuses what a plan can count but no forward pass computes. */
function assertComputed(model: BaseModel, { tensors, pairs }: AdapterPlan, source: string): void {
  const problems = tensors
    .filter(({ role }) => role !== "lora_A" && role !== "lora_B" && role !== "lora_bias")
    .map(({ key, role }) => `${key} (${role})`);
  const head = new Map(model.modules());
  for (const { module } of pairs)
    if (head.get(module) === model.lmHead) problems.push(`a LoRA pair on the output head ${module}`);
  if (problems.length === 0) return;
  throw new LowrankError("UNSUPPORTED", `${source} asks for what this version does not compute: ${listed(problems)}`, {
    hint: "Target the linears of the layers only, without modules_to_save and trainable tokens, or merge the adapter with PEFT.",
    details: { problems },
  });
}

/** The file must hold exactly the planned tensors; every difference is listed. */
function checkKeys(file: TensorSource, plan: AdapterPlan, path: string): void {
  const problems: string[] = [];
  const expected = new Map(plan.tensors.map((tensor) => [tensor.key, tensor.shape]));
  const missing = [...expected.keys()].filter((key) => !file.tensors.has(key));
  const unexpected = [...file.tensors.keys()].filter((key) => !expected.has(key));
  if (missing.length > 0) problems.push(`missing: ${listed(missing)}`);
  if (unexpected.length > 0) problems.push(`unexpected: ${listed(unexpected)}`);
  for (const [key, shape] of expected) {
    const found = file.tensors.get(key)?.shape;
    if (found && (found.length !== shape.length || found.some((n, i) => n !== shape[i]))) {
      problems.push(`wrong shape: ${key} is [${found.join(", ")}], the model and the configuration want [${shape.join(", ")}]`);
    }
  }
  if (problems.length === 0) return;
  throw new LowrankError(
    "ADAPTER_MISMATCH",
    `${path} does not fit the base model and its own configuration:\n- ${problems.join("\n- ")}`,
    {
      hint: "Load the adapter on the model it was made for, with the adapter_config.json it was saved with.",
      details: { missing, unexpected },
    },
  );
}

const listed = (keys: readonly string[]): string =>
  keys.length > 8 ? `${keys.slice(0, 8).join(", ")} and ${keys.length - 8} more` : keys.join(", ");

async function fill(arena: ParameterArena, file: TensorSource, path: string): Promise<void> {
  const flat = new Float32Array(arena.values.size);
  const broken: string[] = [];
  for (const { name, begin } of arena.segments) {
    const values = await readFloat32(file, name);
    if (!values.every(Number.isFinite)) broken.push(name);
    flat.set(values, begin);
  }
  if (broken.length > 0) {
    throw new LowrankError("INVALID_FILE", `${path} holds values that are not finite in: ${listed(broken)}`, {
      hint: "The training that made this adapter diverged: use an earlier checkpoint.",
      details: { tensors: broken },
    });
  }
  arena.values.upload(flat);
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
