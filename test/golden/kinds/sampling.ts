/** Kind `sampling` (golden/train): logits processors in transformers' order. */
import { join } from "node:path";
import { processLogits, type SamplingOptions, softmax, warpLogits } from "../../../src/generate/sampling.js";
import { readTensors } from "../tensors.js";
import type { GoldenHandler } from "../types.js";

/** generation_config names to ours. */
const camel = (params: Record<string, unknown>): SamplingOptions =>
  Object.fromEntries(
    Object.entries(params).map(([key, value]) => [key.replace(/_(\w)/g, (_, c: string) => c.toUpperCase()), value]),
  );

const sampling: GoldenHandler = async ({ dir, spec }) => {
  const inputs = readTensors(join(dir, spec.inputs));
  const expected = readTensors(join(dir, spec.expectedTensors));
  const [rows, width] = inputs.get("history")!.shape as [number, number];
  const vocab = inputs.get("logits")!.shape[1]!;
  let worst = 0;
  const wrong: string[] = [];
  for (const entry of spec.entries) {
    const options = camel(entry.params);
    for (let row = 0; row < rows; row++) {
      const scores = Float32Array.from(inputs.get(entry.logits)!.data.subarray(row * vocab, (row + 1) * vocab));
      processLogits(scores, Array.from(inputs.get("history")!.data.subarray(row * width, (row + 1) * width)), options);
      const ids = warpLogits(scores, options);
      const probs = new Float64Array(vocab);
      for (const [i, p] of softmax(scores, ids).entries()) probs[ids[i]!] = p;
      for (let i = 0; i < vocab; i++) {
        const want = expected.get(`${entry.name}.scores`)!.data[row * vocab + i]!;
        const got = scores[i] === -Infinity ? -1e30 : scores[i]!;
        const scoreError = Math.abs(got - want) / Math.max(1, Math.abs(want));
        const probError = Math.abs(probs[i]! - expected.get(`${entry.name}.probs`)!.data[row * vocab + i]!);
        worst = Math.max(worst, scoreError, probError);
        if (scoreError > spec.tolerance.scores || probError > spec.tolerance.probs)
          wrong.push(`${entry.name} (${entry.processors}) row ${row} token ${i}`);
      }
    }
  }
  return wrong.length === 0
    ? { ok: true, maxError: worst }
    : { ok: false, maxError: worst, reason: `${wrong.length} values differ, first: ${wrong[0]}` };
};

export const samplingHandlers: Record<string, GoldenHandler> = { sampling };
