/** Kind `swap` (golden/peft): adapters side by side: chosen, summed, mixed in a batch, merged, deleted. */
import type { CausalLM } from "../../../src/models/causal-lm.js";
import { PeftModel } from "../../../src/peft/peft-model.js";
import { Errors } from "../errors.js";
import { microBatch } from "../micro-batch.js";
import type { GoldenCase, GoldenHandler } from "../types.js";
import { inGroup, load, logitsOf, refusalOf, type Tensors, tensorsOf, tokenRows } from "./peft-model.js";

/** A model of its own with all adapters of the case, the first of them active. */
async function loadAll(c: GoldenCase): Promise<PeftModel<CausalLM>> {
  const peft = new PeftModel(await load(c, c.spec.base));
  const folders = Object.entries<string>(c.spec.adapters);
  for (const [name, folder] of folders) await peft.loadAdapter(inGroup(c, folder), name);
  peft.setAdapter(folders[0]![0]);
  return peft;
}

const swap: GoldenHandler = async (c) => {
  const { spec } = c;
  const { inputs, expected } = tensorsOf(c);
  const errors = new Errors();
  const want = (key: string) => tokenRows(expected.get(`logits.${key}`)!, inputs);
  let peft = await loadAll(c);
  const renew = async () => {
    peft.dispose();
    peft = await loadAll(c);
  };
  try {
    const base = await withoutAdapters(peft, inputs);
    errors.compare("logits.base", base, want("base"), spec.tolerance.logits);
    for (const step of spec.steps) {
      // What merging for good has made of the weights stays in them.
      if (peft.peftConfig.size === 0) await renew();
      using disabled =
        /disable_adapter|disabled:/.test(step.call ?? "") && !/leave/.test(step.call) ? peft.disableAdapter() : undefined;
      // A step names the adapters that are active in it; only those that choose some say so by a call.
      if (step.call && step.active && !step.call.includes("set_adapter")) peft.setAdapter(step.active);
      for (const [method, names] of calls(step.call ?? "")) await callMethod(peft, method, names);
      const got = await logitsOf(peft.base, inputs, step.rows && rowsOf(peft, inputs, step.rows));
      if (expected.has(`logits.${step.key}`)) errors.compare(`logits.${step.key}`, got, want(step.key), spec.tolerance.logits);
      if (disabled || step.key === "unloaded") errors.compare(`${step.key} against the base`, got, base, 0);
      if (step.active) errors.same(`${step.key}: active`, peft.activeAdapters, step.active);
      if (step.adaptersLeft) errors.same(`${step.key}: adapters`, [...peft.peftConfig.keys()], step.adaptersLeft);
    }
    await renew();
    const asked = new Set(spec.refused.map(({ what }: { what: string }) => what));
    for (const [what, body] of Object.entries(refusals(c, peft, inputs)))
      if (asked.has(what) && !(await refusalOf(body))) errors.wrong.push(`accepted: ${what}`);
  } finally {
    peft.dispose();
  }
  return errors.outcome();
};

/** What a case may list as refused, to be tried in this order. */
function refusals(c: GoldenCase, peft: PeftModel<CausalLM>, inputs: Tensors): Record<string, () => unknown> {
  const [first, folder] = Object.entries<string>(c.spec.adapters)[0]!;
  const sequences = sequenceBounds(inputs).length - 1;
  return {
    "mixed batch with unknown name": () => rowsOf(peft, inputs, Array(sequences).fill("zz")),
    "mixed batch with wrong length": () => rowsOf(peft, inputs, [first]),
    "set unknown adapter": () => peft.setAdapter("zz"),
    "delete unknown adapter": () => peft.deleteAdapter("zz"),
    "load under a name that exists": () => peft.loadAdapter(inGroup(c, folder), first),
    "mixed batch while merged": () => peft.mergeAdapter().then(() => rowsOf(peft, inputs, Array(sequences).fill(first))),
    "delete merged adapter": () => peft.deleteAdapter(first),
  };
}

const sequenceBounds = (inputs: Tensors) => microBatch((name) => inputs.get(name)).cuSeqlens;

/** A mixed batch: one name a sequence. */
const rowsOf = (peft: PeftModel<CausalLM>, inputs: Tensors, names: readonly string[]) =>
  peft.selectRows(
    sequenceBounds(inputs),
    names.map((name) => (name === "__base__" ? null : name)),
  );

async function withoutAdapters(peft: PeftModel<CausalLM>, inputs: Tensors): Promise<Float32Array> {
  using _ = peft.disableAdapter();
  return await logitsOf(peft.base, inputs);
}

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

export const swapHandlers: Record<string, GoldenHandler> = { swap };
