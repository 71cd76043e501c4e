import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { readFloat32, toFloat32 } from "../io/float32.js";
import { readJsonFile } from "../io/json.js";
import { verifyFolder } from "../io/manifest.js";
import { openSafetensors, type SafetensorsDType, type SafetensorsFile, type TensorSource } from "../io/safetensors.js";
import type { TensorEntry } from "../io/safetensors-write.js";
import type { Delta } from "../nn/adapter-part.js";
import { addDelta } from "../nn/dora.js";
import type { Module } from "../nn/module.js";
import { cast } from "../ops/copy.js";
import type { ParameterArena } from "../optim/arena.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import { LoraConfig } from "./config.js";
import { weightOf } from "./init.js";
import type { AdapterPlan, BaseModel, PlannedRepeat } from "./plan.js";

export const CONFIG_FILE = "adapter_config.json";
export const WEIGHTS_FILE = "adapter_model.safetensors";

/** The file must hold exactly what is planned, but for copies of the base, which may be missing; every difference is listed. */
export function checkKeys(file: TensorSource, plan: AdapterPlan, path: string): void {
  const problems: string[] = [];
  const expected = new Map([...plan.tensors, ...plan.repeats].map(({ key, shape }) => [key, shape]));
  const optional = new Set(plan.repeats.flatMap(({ key, of }) => ("base" in of ? [key] : [])));
  const missing = [...expected.keys()].filter((key) => !file.tensors.has(key) && !optional.has(key));
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

/** A loop: `every` with a function takes ten times as long. */
function allFinite(values: Float32Array): boolean {
  for (let i = 0; i < values.length; i++) if (values[i]! - values[i]! !== 0) return false;
  return true;
}

/** Reads what trains into the arena and compares what repeats it. */
export async function fill(arena: ParameterArena, plan: AdapterPlan, file: SafetensorsFile, path: string): Promise<void> {
  const broken: string[] = [];
  for await (const [name, bytes] of file.readMany(arena.segments.map(({ name }) => name))) {
    const values = toFloat32(bytes, file.tensors.get(name)?.dtype, name);
    if (!allFinite(values)) broken.push(name);
    arena.get(name).upload(values);
  }
  if (broken.length > 0) {
    throw new LowrankError("INVALID_FILE", `${path} holds values that are not finite in: ${listed(broken)}`, {
      hint: "The training that made this adapter diverged: use an earlier checkpoint.",
      details: { tensors: broken },
    });
  }
  const differing: string[] = [];
  for (const repeat of plan.repeats) {
    if ("base" in repeat.of) continue;
    const wanted = repeated(repeat, await readFloat32(file, repeat.of.key));
    const found = await readFloat32(file, repeat.key);
    if (found.some((value, i) => value !== wanted[i])) differing.push(`${repeat.key} is not ${repeat.of.key}`);
  }
  if (differing.length > 0) {
    throw new LowrankError("INVALID_FILE", `${path} ties weights that differ: ${listed(differing)}`, {
      hint: "Its ensure_weight_tying says that they are one. Set it to false to load them as two.",
      details: { tensors: differing },
    });
  }
}

/** What a pair took from a module of the base to start with, a delta to be added; undefined where nothing. */
export type TakenFrom = (module: string) => Delta | undefined;

/** The matrix of an embedding or head as PEFT holds it, which is without what a pair took from it. The caller owns it. */
function baseCopy(module: Module | undefined, taken: Delta | undefined): Tensor {
  return scope(() => {
    const weight = weightOf(module);
    return taken ? addDelta(cast(weight, "float32"), taken).keep() : weight.retain();
  });
}

/** Throws ADAPTER_MISMATCH when the file brings other weights of an embedding or head than the base has, by more than a 16-bit dtype rounds. */
export async function assertBaseCopies(
  plan: AdapterPlan,
  file: TensorSource,
  model: BaseModel,
  path: string,
  taken: TakenFrom,
): Promise<void> {
  const modules = new Map(model.modules());
  const differing: string[] = [];
  for (const { key, of } of plan.repeats) {
    if (!("base" in of) || !file.tensors.has(key)) continue;
    const weight = baseCopy(modules.get(of.base), taken(of.base));
    const own = await weight.readFloat32().finally(() => weight.release());
    const theirs = await readFloat32(file, key);
    const least = taken(of.base) ? 2 ** -16 * own.reduce((most, value) => Math.max(most, Math.abs(value)), 0) : 2 ** -24;
    if (theirs.some((value, i) => !(Math.abs(value - own[i]!) <= 2 ** -7 * Math.abs(own[i]!) + least))) differing.push(key);
  }
  if (differing.length === 0) return;
  throw new LowrankError("ADAPTER_MISMATCH", `${path} was trained on other weights than this base has: ${listed(differing)}`, {
    hint: "Load the base it was trained on, or use it on this one all the same: ignoreMismatchedBase: true, on the command line --ignore-mismatched-base.",
    details: { tensors: differing },
  });
}

const DTYPES: Readonly<Record<string, SafetensorsDType>> = { float32: "F32", bfloat16: "BF16", float16: "F16" };

/** What adapter_model.safetensors holds; `values` are the arena's. */
export function fileEntries(
  plan: AdapterPlan,
  arena: ParameterArena,
  values: Float32Array,
  model: BaseModel,
  taken: TakenFrom,
): TensorEntry[] {
  const bytesOf = ({ buffer, byteOffset, byteLength }: ArrayBufferView) => new Uint8Array(buffer, byteOffset, byteLength);
  const valuesOf = (key: string) => {
    const { begin, end } = arena.segments.find(({ name }) => name === key)!;
    return values.subarray(begin, end);
  };
  const trained = arena.segments.map(({ name, shape, begin, end }): TensorEntry => {
    return { name, dtype: "F32", shape, bytes: () => bytesOf(values.subarray(begin, end)) };
  });
  const modules = new Map(model.modules());
  const repeats = plan.repeats
    .filter(({ written }) => written)
    .map((repeat): TensorEntry => {
      const { key: name, shape, of } = repeat;
      if (!("base" in of)) return { name, dtype: "F32", shape, bytes: () => bytesOf(repeated(repeat, valuesOf(of.key))) };
      const away = taken(of.base);
      const dtype = DTYPES[away ? "float32" : scope(() => weightOf(modules.get(of.base)).dtype)]!;
      const bytes = async () => {
        const tensor = baseCopy(modules.get(of.base), away);
        return bytesOf(await tensor.read().finally(() => tensor.release()));
      };
      return { name, dtype, shape, bytes };
    });
  return [...trained, ...repeats];
}

/** The values of an entry that repeats a trained tensor. */
function repeated({ shape, of }: PlannedRepeat, source: Float32Array): Float32Array {
  if ("base" in of || !of.transposed) return source;
  const [rows = 0, columns = 0] = shape;
  return Float32Array.from(source, (_, i) => source[(i % columns) * rows + Math.floor(i / columns)]!);
}

/** Opens again what was saved: every byte is as it was written, and the files hold what they should. Throws CHECKPOINT. */
export async function verifySaved(folder: string, plans: ReadonlyMap<string, AdapterPlan>): Promise<void> {
  const { problems } = await verifyFolder(folder);
  for (const [prefix, plan] of plans) {
    const path = join(folder, prefix, WEIGHTS_FILE);
    try {
      LoraConfig.fromJSON(await readJsonFile(join(folder, prefix, CONFIG_FILE)));
      const file = await openSafetensors(path);
      try {
        checkKeys(file, plan, path);
      } finally {
        await file.close();
      }
    } catch (error) {
      problems.push((error as Error).message);
    }
  }
  if (problems.length === 0) return;
  throw new LowrankError("CHECKPOINT", `${folder} does not hold what was just saved:\n- ${problems.join("\n- ")}`, {
    hint: "The disk is failing, or another program changes the folder: save elsewhere.",
    details: { problems },
  });
}

/** README.md of an adapter's folder. */
export function card(config: LoraConfig): string {
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
