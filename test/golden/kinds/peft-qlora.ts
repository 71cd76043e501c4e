/** Kinds `qlora` and `qlora_lorabias` (golden/peft): an adapter on a 4-bit base. */
import type { Linear } from "../../../src/nn/linear.js";
import { PeftModel } from "../../../src/peft/peft-model.js";
import { Errors } from "../errors.js";
import type { GoldenCase, GoldenHandler } from "../types.js";
import {
  checkBiases,
  checkDisabled,
  checkForward,
  dequantized,
  inGroup,
  load,
  logitsOf,
  type Tensors,
  tensorsOf,
  tokenRows,
} from "./peft-model.js";
import { skipUnsupported } from "./train.js";

const qlora: GoldenHandler = (c) =>
  skipUnsupported(async () => {
    const { spec } = c;
    const { inputs, expected } = tensorsOf(c);
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

/** lora_bias on a base that is quantised on load: answers, and biases and answers after merging. */
const qloraLoraBias: GoldenHandler = async (c) => {
  const { spec } = c;
  const { inputs, expected } = tensorsOf(c);
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

export const qloraHandlers: Record<string, GoldenHandler> = { qlora, qlora_lorabias: qloraLoraBias };
