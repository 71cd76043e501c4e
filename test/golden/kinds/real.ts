/** Kinds `real_greedy` and `real_logits` (golden/real): a real 4-bit model, float32. */
import { existsSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { packSequences } from "../../../src/models/batch.js";
import type { CausalLM } from "../../../src/models/causal-lm.js";
import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import { Linear } from "../../../src/nn/linear.js";
import { Weight } from "../../../src/quant/weight.js";
import { scope } from "../../../src/tensor/scope.js";
import { Tensor } from "../../../src/tensor/tensor.js";
import { AutoTokenizer } from "../../../src/text/tokenizer.js";
import { readTensors } from "../tensors.js";
import { type GoldenCase, type GoldenHandler, skipped } from "../types.js";

/** The model's folder lies beside golden/, wherever the case is; undefined where it is absent. */
export function realModelFolder(c: GoldenCase): string | undefined {
  for (let folder = resolve(c.dir); folder !== dirname(folder); folder = dirname(folder)) {
    const candidate = join(folder, c.spec.model);
    if (existsSync(join(candidate, "config.json"))) return candidate;
  }
  const shared = resolve("../shared", c.spec.model);
  return existsSync(join(shared, "config.json")) ? shared : undefined;
}

const load = (folder: string, c: GoldenCase) =>
  AutoModelForCausalLM.fromPretrained(folder, { device: c.options.device, dtype: "float32" });

/** A step whose two best logits are closer than this may legitimately choose the other. */
const TIE = 1e-3;

const realGreedy: GoldenHandler = async (c) => {
  const folder = realModelFolder(c);
  if (!folder) return skipped(`the folder ${c.spec.model} is absent`);
  const tokenizer = await AutoTokenizer.fromPretrained(folder);
  await using model = await load(folder, c);
  const wrong: string[] = [];
  for (const { prompt, promptIds, newIds, text, gap } of c.spec.cases) {
    const [got] = await model.generateIds([promptIds], { maxNewTokens: newIds.length, doSample: false });
    const at = newIds.findIndex((id: number, i: number) => got![i] !== id);
    if (at >= 0 && gap[at] >= TIE) wrong.push(`'${prompt}' differs at token ${at}, where the gap is ${gap[at]}`);
    if (at < 0 && tokenizer.decode(got!, { skipSpecialTokens: true }) !== text) wrong.push(`'${prompt}' decodes to another text`);
  }
  return wrong.length === 0 ? { ok: true, maxError: 0 } : { ok: false, reason: wrong.join("; ") };
};

/** Rounds every 4-bit weight to bfloat16, as the reference with prefix `bf16weights.` did. */
function roundWeights(model: CausalLM): void {
  for (const [, module] of model.modules()) {
    if (!(module instanceof Linear) || module.weight.kind !== "4bit") continue;
    const rounded = Weight.dense(module.weight.dequantize("bfloat16"));
    module.weight.dispose();
    module.weight = rounded;
  }
}

async function forward(model: CausalLM, ids: readonly number[]): Promise<{ logits: Float32Array; nll: Float32Array }> {
  const tensors = scope(() => {
    const hidden = model.hiddenStates(packSequences([ids], model.device));
    const labels = Tensor.from(Int32Array.from([...ids.slice(1), -100]), [ids.length], { device: model.device });
    return { logits: model.logits(hidden), value: model.tokenLogProb(hidden, labels).value };
  });
  try {
    const [logits, value] = await Promise.all([tensors.logits.readFloat32(), tensors.value.readFloat32()]);
    return { logits, nll: value.subarray(0, ids.length - 1).map((x) => -x) };
  } finally {
    tensors.logits.dispose();
    tensors.value.dispose();
  }
}

const realLogits: GoldenHandler = async (c) => {
  const folder = realModelFolder(c);
  if (!folder) return skipped(`the folder ${c.spec.model} is absent`);
  const ids = Array.from(readTensors(join(c.dir, "inputs.safetensors")).get("input_ids")!.data);
  const expected = readTensors(join(c.dir, "expected.safetensors"));
  await using model = await load(folder, c);
  const vocab = model.config.vocabSize;
  let worst = 0;
  const wrong: string[] = [];
  const check = (name: string, got: number, want: number) => {
    const error = Math.abs(got - want);
    worst = Math.max(worst, error);
    if (!(error <= c.spec.tolerance)) wrong.push(`${name}: got ${got}, expected ${want}`);
  };
  for (const [prefix, mean] of [
    ["", c.spec.meanNll],
    ["bf16weights.", c.spec.meanNllBf16Weights],
  ] as const) {
    if (prefix !== "") roundWeights(model);
    const { logits, nll } = await forward(model, ids);
    const topIds = expected.get(`${prefix}top_ids`)!.data;
    const topLogits = expected.get(`${prefix}top_logits`)!.data;
    const width = expected.get(`${prefix}top_ids`)!.shape[1]!;
    for (const [i, id] of topIds.entries())
      check(`${prefix}top_logits[${i}]`, logits[Math.floor(i / width) * vocab + id]!, topLogits[i]!);
    for (const [i, value] of nll.entries()) check(`${prefix}nll[${i}]`, value, expected.get(`${prefix}nll`)!.data[i]!);
    check(`${prefix}meanNll`, nll.reduce((a, b) => a + b, 0) / nll.length, mean);
  }
  return wrong.length === 0
    ? { ok: true, maxError: worst }
    : { ok: false, maxError: worst, reason: `${wrong.length} values differ; ${wrong[0]}` };
};

export const realHandlers: Record<string, GoldenHandler> = { real_greedy: realGreedy, real_logits: realLogits };
