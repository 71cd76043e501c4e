/** Kinds of golden/peft about adapters on models: adapter, qlora, swap, error, api_text. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { valueAndGrad } from "../../../src/autograd/tape.js";
import { LowrankError } from "../../../src/errors.js";
import type { CausalLM } from "../../../src/models/causal-lm.js";
import type { FromPretrainedOptions } from "../../../src/models/from-pretrained.js";
import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import type { AdapterSelection } from "../../../src/nn/adapter-slot.js";
import type { Embedding } from "../../../src/nn/embedding.js";
import { Linear } from "../../../src/nn/linear.js";
import type { Module } from "../../../src/nn/module.js";
import type { RMSNorm } from "../../../src/nn/rms-norm.js";
import { weightedSum } from "../../../src/ops/elementwise.js";
import { Adapter } from "../../../src/peft/adapter.js";
import type { CombineOptions } from "../../../src/peft/combine.js";
import { LoraConfig } from "../../../src/peft/config.js";
import { countBase, parametersText } from "../../../src/peft/count.js";
import { shapeOf } from "../../../src/peft/model-shape.js";
import { PeftModel } from "../../../src/peft/peft-model.js";
import { countAdded, countParameters, planAdapter } from "../../../src/peft/plan.js";
import { type KeepMask, weightedAdapter } from "../../../src/peft/weighted.js";
import { scope } from "../../../src/tensor/scope.js";
import { toDevice } from "../../../src/train/step.js";
import { Errors } from "../errors.js";
import { microBatch, tokenPlaces } from "../micro-batch.js";
import { type GoldenTensor, readTensors } from "../tensors.js";
import type { GoldenCase, GoldenHandler } from "../types.js";
import { skipUnsupported } from "./train.js";

type Tensors = ReadonlyMap<string, GoldenTensor>;

/** A path of case.json, which is relative to the group's folder. */
const inGroup = (c: GoldenCase, path: string) => join(c.dir, "..", path);

const load = (c: GoldenCase, path: string, options: FromPretrainedOptions = {}) =>
  AutoModelForCausalLM.fromPretrained(inGroup(c, path), { device: c.options.device, dtype: "float32", ...options });

/** Logits of the tokens that are not padding, [T, vocab]. */
async function logitsOf(model: CausalLM, inputs: Tensors, adapters?: AdapterSelection): Promise<Float32Array> {
  const logits = scope(() => {
    const { batch } = toDevice(
      microBatch((name) => inputs.get(name)),
      model.device,
    );
    const mode = adapters ? { adapters } : {};
    return model.logits(model.hiddenStates(batch, mode), mode);
  });
  try {
    return await logits.readFloat32();
  } finally {
    logits.dispose();
  }
}

/** The rows of a file's [B, T, V] that are not padding. */
function tokenRows({ shape, data }: GoldenTensor, inputs: Tensors): Float32Array {
  const vocab = shape.at(-1)!;
  const places = tokenPlaces(inputs.get("attention_mask")!);
  const rows = new Float32Array(places.length * vocab);
  for (const [i, place] of places.entries())
    rows.set(data.subarray(place * vocab, (place + 1) * vocab) as Float32Array, i * vocab);
  return rows;
}

/** Loss of the batch, its mean over the targets, and the gradients it leaves in the active adapter. */
async function lossAndGrad(peft: PeftModel<CausalLM>, inputs: Tensors): Promise<number> {
  const tokens = microBatch((name) => inputs.get(name));
  const loss = scope(() => {
    const { batch, labels } = toDevice(tokens, peft.base.device);
    return valueAndGrad(() => {
      const hidden = peft.base.hiddenStates(batch);
      return weightedSum(peft.base.tokenLogProb(hidden, labels).value, -1 / tokens.targetTokens);
    });
  });
  try {
    return await loss.item();
  } finally {
    loss.dispose();
  }
}

/** Logits, loss and gradients of the active adapter. */
async function checkForward(
  c: GoldenCase,
  peft: PeftModel<CausalLM>,
  inputs: Tensors,
  expected: Tensors,
  errors: Errors,
): Promise<void> {
  const { tolerance } = c.spec;
  // Cases that carry the note "relative 1e-3 is fine for values above 1".
  const relative = /relative 1e-3/.test(tolerance.note ?? "") ? 1e-3 : 0;
  const compare = (name: string, got: ArrayLike<number>, want: ArrayLike<number>, allowed: number) =>
    errors.compareScaled(name, got, want, allowed, relative);
  compare("logits", await logitsOf(peft.base, inputs), tokenRows(expected.get("logits")!, inputs), tolerance.logits);
  errors.compare("loss", [await lossAndGrad(peft, inputs)], [c.spec.loss], tolerance.loss);
  const { arena } = peft.trainable;
  const grads = [...expected].filter(([key]) => key.startsWith("grad."));
  errors.same("trained tensors", arena.segments.map(({ name }) => `grad.${name}`).sort(), grads.map(([key]) => key).sort());
  for (const [key, want] of grads) compare(key, await arena.get(key.slice(5)).grad!.readFloat32(), want.data, tolerance.grad);
  errors.same("trainableParameters", peft.parameterCounts(), {
    trainable: c.spec.trainableParameters,
    all: c.spec.allParameters,
  });
  errors.same("printTrainableParameters", peft.trainableParametersText(), c.spec.printTrainableParameters);
}

/** With every adapter off the base must answer, to the bit. */
async function checkDisabled(peft: PeftModel<CausalLM>, inputs: Tensors, base: Float32Array, errors: Errors): Promise<void> {
  using _ = peft.disableAdapter();
  errors.compare("logits with the adapter disabled", await logitsOf(peft.base, inputs), base, 0);
}

const weightValues = (module: Module) => {
  if (module instanceof Linear) return dequantized(module);
  return (module as Embedding | RMSNorm).weight.readFloat32();
};

const dequantized = (linear: Linear) => {
  const dense = linear.weight.dequantize("float32");
  return dense.readFloat32().finally(() => dense.dispose());
};

const adapter: GoldenHandler = (c) =>
  skipUnsupported(async () => {
    const { spec } = c;
    const inputs = readTensors(join(c.dir, "inputs.safetensors"));
    const expected = readTensors(join(c.dir, "expected.safetensors"));
    await using model = await load(c, spec.base);
    const errors = new Errors();
    let base = await logitsOf(model, inputs);
    const wantBase = readTensors(inGroup(c, spec.logitsBase)).get("logits_base")!;
    errors.compare("logits of the base", base, tokenRows(wantBase, inputs), spec.tolerance.logits);
    // loftq: the adapter belongs on other weights, which the case brings.
    const changed = join(c.dir, "base_after_init.safetensors");
    if (existsSync(changed)) {
      for (const [key, { data }] of readTensors(changed)) {
        const module = model.find(key.replace(/\.weight$/, ""));
        if (module) (module as Linear).weight.dense!.upload(data as Float32Array);
      }
      base = await logitsOf(model, inputs);
    }
    const peft = await PeftModel.fromPretrained(model, join(c.dir, spec.adapter), { isTrainable: true });
    await checkForward(c, peft, inputs, expected, errors);
    const targeted = peft.trainable.plan.pairs.map(({ module }) => module);
    errors.same("targetedModules", [...targeted].sort(), [...spec.targetedModules].sort());
    await checkDisabled(peft, inputs, base, errors);

    if (spec.mergeError) {
      if (!(await refusalOf(() => peft.mergeAndUnload()))) errors.wrong.push("merging is accepted");
      peft.unload();
      return errors.outcome();
    }
    await peft.mergeAndUnload({ safeMerge: true });
    if (typeof spec.mergedStillTied === "boolean")
      errors.same("mergedStillTied", model.lmHead.weight.borrowed, spec.mergedStillTied);
    await checkBiases(model, "merged.", expected, spec.tolerance.merged, errors);
    const modules = new Map(model.modules());
    for (const [key, want] of expected) {
      const name = /^merged\.(.*)\.weight$/.exec(key)?.[1];
      if (name !== undefined) errors.compare(key, await weightValues(modules.get(name)!), want.data, spec.tolerance.merged);
    }
    const merged = tokenRows(expected.get("logits_merged") ?? expected.get("logits")!, inputs);
    errors.compare("logits after merging", await logitsOf(model, inputs), merged, spec.tolerance.logits);
    return errors.outcome();
  });

const qlora: GoldenHandler = (c) =>
  skipUnsupported(async () => {
    const { spec } = c;
    const inputs = readTensors(join(c.dir, "inputs.safetensors"));
    const expected = readTensors(join(c.dir, "expected.safetensors"));
    await using model = await load(c, spec.model);
    const errors = new Errors();
    const base = await logitsOf(model, inputs);
    errors.compare("logits of the base", base, tokenRows(expected.get("logits_base")!, inputs), spec.tolerance.logits);
    const modules = new Map(model.modules());
    const weightOf = (key: string) => modules.get(key.slice(key.indexOf(".") + 1, -".weight".length)) as Linear;
    for (const [key, want] of expected) {
      if (key.startsWith("dequant.")) errors.compare(key, await dequantized(weightOf(key)), want.data, spec.tolerance.dequant);
    }
    const peft = await PeftModel.fromPretrained(model, inGroup(c, spec.adapter), { isTrainable: true });
    await checkForward(c, peft, inputs, expected, errors);
    await checkDisabled(peft, inputs, base, errors);
    if (spec.computeDtype === "bfloat16") await checkBfloat16(c, inputs, expected, errors);

    await peft.mergeAndUnload();
    let flipped = 0;
    for (const [key, want] of expected) {
      if (!key.startsWith("merged_codes.")) continue;
      const codes = (await weightOf(key).weight.fourBitParts!.codes.read()) as Uint8Array;
      const steps = nibbleSteps(codes, want.data as Uint8Array);
      flipped += steps.length;
      if (steps.length > Math.ceil((codes.length * 2 * 2) / 10_000)) errors.wrong.push(`${key}: ${steps.length} codes differ`);
      if (steps.some((step) => step > 1)) errors.wrong.push(`${key}: codes differ by more than one`);
      const values = expected.get(`merged_dequant.${key.slice("merged_codes.".length)}`);
      if (values && steps.length === 0)
        errors.compare(
          `dequantised ${key}`,
          await dequantized(weightOf(key)),
          values.data,
          MERGED_STATISTICS[spec.doubleQuant ? 1 : 0]!,
        );
    }
    const merged = expected.get("logits_merged");
    // A code that fell to the other side of a midpoint moves the logits by a share of what requantising all codes moves them.
    const allowed = spec.tolerance.logits + (flipped > 0 || spec.doubleQuant ? spec.mergeMaxLogitChange / 10 : 0);
    if (merged) errors.compare("logits after merging", await logitsOf(model, inputs), tokenRows(merged, inputs), allowed);
    return errors.outcome();
  });

/** Allowed error of merged weights: exact statistics, and doubly quantised ones, whose codes may be one off. */
const MERGED_STATISTICS = [1e-5, 2e-2];

/** By how many places the 4-bit codes differ that do. */
function nibbleSteps(got: Uint8Array, want: Uint8Array): number[] {
  if (got.length !== want.length) return [Number.POSITIVE_INFINITY];
  return Array.from(got).flatMap((byte, i) =>
    [Math.abs((byte >> 4) - (want[i]! >> 4)), Math.abs((byte & 15) - (want[i]! & 15))].filter((step) => step > 0),
  );
}

/** The same in bfloat16, loosely, against the library's own bfloat16. */
async function checkBfloat16(c: GoldenCase, inputs: Tensors, expected: Tensors, errors: Errors): Promise<void> {
  await using model = await load(c, c.spec.model, { dtype: "bfloat16" });
  const loose = c.spec.tolerance.logits_bf16;
  const compare = async (key: string) =>
    errors.compare(key, await logitsOf(model, inputs), tokenRows(expected.get(key)!, inputs), loose);
  await compare("logits_base_library");
  const peft = await PeftModel.fromPretrained(model, inGroup(c, c.spec.adapter));
  await compare("logits_library");
  peft.unload();
}

/** The typed error that `body` throws. */
const refusalOf = async (body: () => unknown): Promise<LowrankError | undefined> => {
  try {
    await body();
    return undefined;
  } catch (error) {
    if (error instanceof LowrankError) return error;
    throw error;
  }
};

const swap: GoldenHandler = async (c) => {
  const { spec } = c;
  const inputs = readTensors(join(c.dir, "inputs.safetensors"));
  const expected = readTensors(join(c.dir, "expected.safetensors"));
  await using model = await load(c, spec.base);
  const errors = new Errors();
  const base = await logitsOf(model, inputs);
  errors.compare("logits.base", base, tokenRows(expected.get("logits.base")!, inputs), spec.tolerance.logits);
  const folders = Object.entries<string>(spec.adapters);
  const loadAll = async () => {
    const peft = new PeftModel(model);
    for (const [name, folder] of folders) await peft.loadAdapter(inGroup(c, folder), name);
    peft.setAdapter(folders[0]![0]);
    return peft;
  };
  let peft = await loadAll();
  for (const step of spec.steps) {
    if (peft.peftConfig.size === 0) peft = await loadAll();
    using disabled =
      /disable_adapter|disabled:/.test(step.call ?? "") && !/leave/.test(step.call) ? peft.disableAdapter() : undefined;
    // A step names the adapters that are active in it; only those that choose some say so by a call.
    if (step.call && step.active && !step.call.includes("set_adapter")) peft.setAdapter(step.active);
    for (const [method, names] of calls(step.call ?? "")) await callMethod(peft, method, names);
    const rows =
      step.rows &&
      peft.selectRows(
        sequenceBounds(inputs),
        step.rows.map((name: string) => (name === "__base__" ? null : name)),
      );
    const got = await logitsOf(model, inputs, rows);
    const want = expected.get(`logits.${step.key}`);
    if (want) errors.compare(`logits.${step.key}`, got, tokenRows(want, inputs), spec.tolerance.logits);
    if (disabled || step.key === "unloaded") errors.compare(`${step.key} against the base`, got, base, 0);
    if (step.active) errors.same(`${step.key}: active`, peft.activeAdapters, step.active);
    if (step.adaptersLeft) errors.same(`${step.key}: adapters`, [...peft.peftConfig.keys()], step.adaptersLeft);
  }
  peft = await loadAll();
  const first = folders[0]![0];
  const bounds = sequenceBounds(inputs);
  const refused: Record<string, () => unknown> = {
    "mixed batch with unknown name": () =>
      peft.selectRows(
        bounds,
        [...bounds.slice(1)].map(() => "zz"),
      ),
    "mixed batch with wrong length": () => peft.selectRows(bounds, [first]),
    "set unknown adapter": () => peft.setAdapter("zz"),
    "delete unknown adapter": () => peft.deleteAdapter("zz"),
    "load under a name that exists": () => peft.loadAdapter(inGroup(c, folders[0]![1]), first),
    "mixed batch while merged": () =>
      peft.mergeAdapter().then(() =>
        peft.selectRows(
          bounds,
          [...bounds.slice(1)].map(() => first),
        ),
      ),
    "delete merged adapter": () => peft.deleteAdapter(first),
  };
  const asked = new Set(spec.refused.map(({ what }: { what: string }) => what));
  for (const [what, body] of Object.entries(refused))
    if (asked.has(what) && !(await refusalOf(body))) errors.wrong.push(`accepted: ${what}`);
  peft.unload();
  return errors.outcome();
};

/** The calls a step names, such as `set_adapter('b'); merge_adapter(['a','c'])`, with the adapters they get. */
function calls(text: string): [method: string, names: string[]][] {
  return Array.from(text.matchAll(/(\w+)\(([^)]*)\)/g), ([, method, names]) => [
    method!,
    Array.from(names!.matchAll(/'([^']*)'/g), ([, name]) => name!),
  ]);
}

async function callMethod(peft: PeftModel<CausalLM>, method: string, names: string[]): Promise<void> {
  const adapterNames = names.length > 0 ? { adapterNames: names } : {};
  if (method === "set_adapter") peft.setAdapter(names);
  else if (method === "delete_adapter") peft.deleteAdapter(names[0]!);
  else if (method === "merge_adapter") await peft.mergeAdapter(adapterNames);
  else if (method === "unmerge_adapter") peft.unmergeAdapter();
  else if (method === "unload") peft.unload();
  else if (method === "merge_and_unload") await peft.mergeAndUnload(adapterNames);
  else if (!["disable_adapter", "forward"].includes(method)) throw new Error(`the step calls ${method}, which is not known here`);
}

const sequenceBounds = (inputs: Tensors) => microBatch((name) => inputs.get(name)).cuSeqlens;

const error: GoldenHandler = async (c) => {
  const { spec } = c;
  let refusal: unknown;
  await using model = await load(c, spec.base);
  if (spec.stage === "create") {
    const config = JSON.parse(readFileSync(join(c.dir, spec.config), "utf8"));
    refusal = await refusalOf(() => {
      const lora = LoraConfig.fromJSON(config);
      const shape = shapeOf(model);
      planAdapter({ ...shape, modelType: spec.modelTypeOverride ?? shape.modelType }, lora);
      lora.assertRunnable(true);
    });
  } else if (spec.stage === "combine") {
    const peft = new PeftModel(model);
    for (const [name, folder] of Object.entries<string>(spec.adapters)) await peft.loadAdapter(inGroup(c, folder), name);
    refusal = await refusalOf(() => peft.addWeightedAdapter(spec.order, spec.weights, spec.resultName, combineOptions(spec)));
    peft.unload();
  } else {
    refusal = await PeftModel.fromPretrained(model, join(c.dir, spec.adapter)).then(
      () => undefined,
      (reason: unknown) => reason,
    );
  }
  if (spec.should !== "error") return refusal ? { ok: false, reason: `refused: ${refusal}` } : { ok: true };
  if (refusal === undefined) return { ok: false, reason: "accepted" };
  return refusal instanceof LowrankError ? { ok: true } : { ok: false, reason: `not a typed error: ${refusal}` };
};

const apiText: GoldenHandler = async (c) => {
  const errors = new Errors();
  for (const { base, quantised, config, name, trainable, all, text } of c.spec.entries) {
    const fourBit = quantised ? { loadIn4bit: true, bnb4bitUseDoubleQuant: quantised === "nf4-dq" } : {};
    await using model = await load(c, base, fourBit);
    const plan = planAdapter(shapeOf(model), LoraConfig.fromJSON({ peft_type: "LORA", ...config }));
    const [count, sum] = [countParameters(plan), countBase(model) + countAdded(plan)];
    errors.same(`${name} on ${quantised ?? "float32"}`, [count, sum], [trainable, all]);
    errors.same(`${name} on ${quantised ?? "float32"}: text`, parametersText(count, sum), text);
  }
  return errors.outcome();
};

const hotswap: GoldenHandler = async (c) => {
  const { spec } = c;
  const inputs = readTensors(join(c.dir, "inputs.safetensors"));
  const expected = readTensors(join(c.dir, "expected.safetensors"));
  await using model = await load(c, spec.base);
  const errors = new Errors();
  const base = await logitsOf(model, inputs);
  for (const step of spec.steps) {
    const loaded: string = step.loaded ?? spec.loaded;
    const peft = await PeftModel.fromPretrained(model, inGroup(c, spec.adapters[loaded]), { adapterName: "it" });
    const merged = step.key === "while_merged";
    const key: string = step.logits ?? `logits.${step.key}`;
    const next = inGroup(c, spec.adapters[merged ? "same" : key.slice("logits.".length)]);
    if (merged) {
      await peft.mergeAdapter();
      if (!(await refusalOf(() => peft.hotswapAdapter(next, "it")))) errors.wrong.push("replaced while merged");
      peft.unmergeAdapter();
      using _ = peft.disableAdapter();
      errors.compare("unmerged", await logitsOf(model, inputs), base, spec.tolerance.unmerged);
    } else {
      await peft.hotswapAdapter(next, "it");
      errors.compare(step.key, await logitsOf(model, inputs), tokenRows(expected.get(key)!, inputs), spec.tolerance.logits);
    }
    peft.unload();
  }
  return errors.outcome();
};

/** The library's names of options. */
const combineOptions = ({ combinationType, options }: GoldenCase["spec"]): CombineOptions => ({
  combinationType,
  ...(options.density !== undefined && { density: options.density }),
  ...(options.svd_rank !== undefined && { svdRank: options.svd_rank }),
  ...(options.majority_sign_method !== undefined && { majoritySignMethod: options.majority_sign_method }),
});

const combine: GoldenHandler = async (c) => {
  const { spec } = c;
  const inputs = readTensors(join(c.dir, "inputs.safetensors"));
  const expected = readTensors(join(c.dir, "expected.safetensors"));
  await using model = await load(c, spec.base);
  const sources = new Map<string, Adapter>();
  for (const name of spec.order as string[]) sources.set(name, await Adapter.load(model, inGroup(c, spec.adapters[name])));
  const mask: KeepMask = async (module, adapter, what) => inputs.get(`mask.${module}.${adapter}.${what}`)!.data;
  const mix = await weightedAdapter(model, sources, spec.weights, combineOptions(spec), spec.masks ? mask : undefined);
  const errors = new Errors();
  const { config, plan, arena } = mix;
  errors.same("r, alpha", [config.r, config.loraAlpha], [spec.result.r, spec.result.lora_alpha]);
  errors.same("target_modules", [...(config.targetModules as string[])].sort(), [...spec.result.target_modules].sort());
  errors.same("ranks", Object.fromEntries(plan.pairs.map(({ module, rank }) => [module, rank])), spec.result.ranks);
  for (const { module, a, b, rank, scale } of plan.pairs) {
    errors.same(`scaling of ${module}`, scale, 1);
    const [A, B] = [await arena.get(a).readFloat32(), await arena.get(b).readFloat32()];
    for (const [key, got, tolerance] of [
      [`A.${module}`, A, spec.tolerance.A],
      [`B.${module}`, B, spec.tolerance.B],
      [`delta.${module}`, product(B, A, rank), spec.tolerance.delta],
    ] as const) {
      const want = expected.get(key);
      if (want) errors.compare(key, got, want.data, tolerance);
    }
  }
  mix.attach(model, "mix");
  const logits = await logitsOf(model, inputs, { names: ["mix"] });
  errors.compare("logits", logits, tokenRows(expected.get("logits")!, inputs), spec.tolerance.logits);
  mix.detach(model, "mix");
  for (const adapter of [mix, ...sources.values()]) adapter.dispose();
  return errors.outcome();
};

/** b [n, r] · a [r, k]. */
function product(b: Float32Array, a: Float32Array, r: number): Float32Array {
  const [n, k] = [b.length / r, a.length / r];
  return Float32Array.from({ length: n * k }, (_, at) => {
    let sum = 0;
    for (let i = 0; i < r; i++) sum += b[Math.floor(at / k) * r + i]! * a[i * k + (at % k)]!;
    return sum;
  });
}

/** lora_bias on a base that is quantised on load: answers, and biases and answers after merging. */
const qloraLoraBias: GoldenHandler = async (c) => {
  const { spec } = c;
  const inputs = readTensors(join(c.dir, "inputs.safetensors"));
  const expected = readTensors(join(c.dir, "expected.safetensors"));
  await using model = await load(c, spec.base, { loadIn4bit: true, bnb4bitUseDoubleQuant: spec.doubleQuant });
  const errors = new Errors();
  const peft = await PeftModel.fromPretrained(model, inGroup(c, spec.adapter));
  const { logits } = spec.tolerance;
  errors.compare("logits", await logitsOf(model, inputs), tokenRows(expected.get("logits")!, inputs), logits);
  await peft.mergeAndUnload();
  await checkBiases(model, "merged_bias.", expected, logits, errors);
  const merged = tokenRows(expected.get("logits_merged")!, inputs);
  errors.compare("logits after merging", await logitsOf(model, inputs), merged, logits);
  return errors.outcome();
};

/** Biases of the model against the expected tensors whose keys are `prefix`, the module's name and `.bias`. */
async function checkBiases(model: CausalLM, prefix: string, expected: Tensors, tolerance: number, errors: Errors) {
  const modules = new Map(model.modules());
  for (const [key, want] of expected) {
    if (!(key.startsWith(prefix) && key.endsWith(".bias"))) continue;
    const { bias } = modules.get(key.slice(prefix.length, -".bias".length)) as Linear;
    errors.compare(key, await bias!.readFloat32(), want.data, tolerance);
  }
}

export const peftHandlers: Record<string, GoldenHandler> = {
  adapter,
  qlora,
  qlora_lorabias: qloraLoraBias,
  swap,
  hotswap,
  combine,
  error,
  api_text: apiText,
};
