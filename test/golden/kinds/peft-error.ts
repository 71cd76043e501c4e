/** Kind `error` (golden/peft): what is refused when an adapter is made, loaded or combined. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../../../src/errors.js";
import { LoraConfig } from "../../../src/peft/config.js";
import { shapeOf } from "../../../src/peft/model-shape.js";
import { PeftModel } from "../../../src/peft/peft-model.js";
import { planAdapter } from "../../../src/peft/plan.js";
import type { GoldenHandler } from "../types.js";
import { combineOptions } from "./peft-combine.js";
import { inGroup, load, refusalOf } from "./peft-model.js";

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

export const errorHandlers: Record<string, GoldenHandler> = { error };
