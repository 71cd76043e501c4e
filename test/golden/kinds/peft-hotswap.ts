/** Kind `hotswap` (golden/peft): an adapter in the place of a loaded one. */
import { PeftModel } from "../../../src/peft/peft-model.js";
import { Errors } from "../errors.js";
import type { GoldenHandler } from "../types.js";
import { inGroup, load, logitsOf, refusalOf, tensorsOf, tokenRows } from "./peft-model.js";

const hotswap: GoldenHandler = async (c) => {
  const { spec } = c;
  const { inputs, expected } = tensorsOf(c);
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

export const hotswapHandlers: Record<string, GoldenHandler> = { hotswap };
