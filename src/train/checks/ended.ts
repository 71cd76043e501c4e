import { PeftModel } from "../../peft/peft-model.js";
import { comma, type Finding, finding } from "./finding.js";

/** What a run that has ended did not do. */
export async function checkEnded(model: unknown, steps: number, skippedSteps: number): Promise<Finding[]> {
  const found: Finding[] = [];
  if (skippedSteps > 0)
    found.push(
      finding(
        "warning",
        "steps-skipped",
        `${comma(skippedSteps)} of ${comma(steps)} steps changed nothing: their loss or gradient was not finite`,
        "Lower the learning rate, or look for rows with extreme content.",
      ),
    );
  if (model instanceof PeftModel && (await allZero(model)))
    found.push(
      finding(
        "warning",
        "untrained-adapter",
        "Every lora_B is still zero: the adapter does nothing, the model answers as its base",
        "See whether the learning rate is 0, every step was skipped, or no row has a target.",
      ),
    );
  return found;
}

/** One matrix in memory at a time; the first value that was trained settles it. */
async function allZero(model: PeftModel): Promise<boolean> {
  const { plan, arena } = model.trainable;
  for (const { b } of plan.pairs) if ((await arena.get(b).readFloat32()).some((value) => value !== 0)) return false;
  return plan.pairs.length > 0;
}
