/** Kind `adapter` (golden/peft): one adapter on a base: answers, loss, gradients, counts and the merged model. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import type { Embedding } from "../../../src/nn/embedding.js";
import { Linear } from "../../../src/nn/linear.js";
import type { Module } from "../../../src/nn/module.js";
import type { RMSNorm } from "../../../src/nn/rms-norm.js";
import { PeftModel } from "../../../src/peft/peft-model.js";
import { Errors } from "../errors.js";
import { readTensors } from "../tensors.js";
import type { GoldenHandler } from "../types.js";
import {
  checkBiases,
  checkDisabled,
  checkForward,
  dequantized,
  inGroup,
  load,
  logitsOf,
  refusalOf,
  tensorsOf,
  tokenRows,
} from "./peft-model.js";
import { skipUnsupported } from "./train.js";

const weightValues = (module: Module) => {
  if (module instanceof Linear) return dequantized(module);
  return (module as Embedding | RMSNorm).weight.readFloat32();
};

const adapter: GoldenHandler = (c) =>
  skipUnsupported(async () => {
    const { spec } = c;
    const { inputs, expected } = tensorsOf(c);
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

export const adapterHandlers: Record<string, GoldenHandler> = { adapter };
