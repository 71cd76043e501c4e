/** Kinds `model` and `packed` (golden/models): logits, log-probabilities, hidden states, loss and greedy decoding. */
import { copyFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { valueAndGrad } from "../../../src/autograd/tape.js";
import { packSequences } from "../../../src/models/batch.js";
import type { CausalLM } from "../../../src/models/causal-lm.js";
import { AutoModelForCausalLM, supportedModelTypes } from "../../../src/models/registry.js";
import { copyInto } from "../../../src/ops/copy.js";
import { weightedSum } from "../../../src/ops/elementwise.js";
import { ParameterArena } from "../../../src/optim/arena.js";
import { scope } from "../../../src/tensor/scope.js";
import { Tensor } from "../../../src/tensor/tensor.js";
import { Errors } from "../errors.js";
import { type GoldenTensor, readTensors } from "../tensors.js";
import { type GoldenCase, type GoldenHandler, skipped } from "../types.js";

/** Sequences with the padding dropped, and where each token stood. */
function unpad(ids: GoldenTensor, mask: GoldenTensor): { sequences: number[][]; places: number[][] } {
  const [rows, width] = ids.shape as [number, number];
  const places = Array.from({ length: rows }, (_, b) =>
    Array.from({ length: width }, (_, s) => b * width + s).filter((at) => mask.data[at] === 1),
  );
  return { sequences: places.map((row) => row.map((at) => ids.data[at]!)), places };
}

/** Logits [T, vocab], log-probability of each next token [T], hidden states before each layer, after the last, and after the final norm. */
async function forward(model: CausalLM, sequences: readonly (readonly number[])[], nextIds: readonly number[]) {
  const tensors = scope(() => {
    const batch = packSequences(sequences, model.device);
    const observed: Tensor[] = [];
    const hidden = model.hiddenStates(batch, { observe: (state) => observed.push(state) });
    const labels = Tensor.from(Int32Array.from(nextIds), [nextIds.length], { device: model.device });
    return { logits: model.logits(hidden), logProb: model.tokenLogProb(hidden, labels).value, states: [...observed, hidden] };
  });
  try {
    return {
      logits: await tensors.logits.readFloat32(),
      logProb: await tensors.logProb.readFloat32(),
      states: await Promise.all(tensors.states.map((state) => state.readFloat32())),
    };
  } finally {
    for (const tensor of [tensors.logits, tensors.logProb, ...tensors.states]) tensor.dispose();
  }
}

/** Next token of each position, -100 at the end of each sequence. */
const nextOf = (sequences: readonly (readonly number[])[]) => sequences.flatMap((ids) => [...ids.slice(1), -100]);

async function checkModel(c: GoldenCase, model: CausalLM, errors: Errors, label: string): Promise<void> {
  const { spec } = c;
  const inputs = readTensors(join(c.dir, "inputs.safetensors"));
  const expected = readTensors(join(c.dir, "expected.safetensors"));
  const { logitsAbs, lossRel } = spec.tolerance;
  const { sequences, places } = unpad(inputs.get("input_ids")!, inputs.get("attention_mask")!);
  const { logits, logProb, states } = await forward(model, sequences, nextOf(sequences));

  const vocab = model.config.vocabSize;
  const at = places.flat();
  const wantLogits = expected.get("logits")!.data;
  const wantLogProb = expected.get("token_logprobs")!.data;
  const hidden = model.config.hiddenSize;
  const first = sequences[0]!.length * hidden;
  for (let i = 0; i < states.length; i++) {
    const name = i === states.length - 1 ? "hidden.final" : `hidden.${i}`;
    errors.compare(`${label}${name}`, states[i]!.subarray(0, first), expected.get(name)!.data.subarray(0, first), logitsAbs);
  }
  at.forEach((place, t) => {
    errors.compare(
      `${label}logits at ${place}`,
      logits.subarray(t * vocab, (t + 1) * vocab),
      wantLogits.subarray(place * vocab, (place + 1) * vocab),
      logitsAbs,
    );
  });
  const labels = inputs.get("labels")!.data;
  let [sum, count, t] = [0, 0, 0];
  for (const row of places) {
    for (let i = 0; i + 1 < row.length; i++) {
      errors.compare(`${label}token_logprobs at ${row[i + 1]}`, [logProb[t + i]!], [wantLogProb[row[i + 1]!]!], logitsAbs);
      if (labels[row[i + 1]!] !== -100) {
        sum -= logProb[t + i]!;
        count++;
      }
    }
    t += row.length;
  }
  errors.same(`${label}targetTokens`, [count], [spec.targetTokens]);
  errors.relative(`${label}loss`, sum / count, spec.lossFloat64, lossRel);

  const left = unpad(inputs.get("left_input_ids")!, inputs.get("left_attention_mask")!).sequences;
  const last = await forward(model, left, nextOf(left));
  let end = 0;
  left.forEach((ids, row) => {
    end += ids.length;
    errors.compare(
      `${label}left_last_logits`,
      last.logits.subarray((end - 1) * vocab, end * vocab),
      expected.get("left_last_logits")!.data.subarray(row * vocab, (row + 1) * vocab),
      logitsAbs,
    );
  });
  await checkGreedy(spec.greedy, model, left, errors, label);
  const gradients = new Map([...expected].filter(([name]) => name.startsWith("grad.")));
  if (gradients.size === 0) return;
  const targets = places.flatMap((row) => row.map((_, i) => (i + 1 < row.length ? labels[row[i + 1]!]! : -100)));
  const got = await gradientsOf(model, sequences, targets, spec.targetTokens);
  errors.same(
    `${label}gradients`,
    [...gradients.keys()].filter((name) => !got.has(name)),
    [],
  );
  // A gradient may be zero but for rounding, such as that of a bias on keys which are not rotated.
  const largest = (values: ArrayLike<number>) => Math.max(...Array.from(values, Math.abs));
  const floor = 1e-3 * Math.max(...[...gradients.values()].map(({ data }) => largest(data)));
  for (const [name, { data }] of gradients) {
    const allowed = spec.tolerance.gradRel * Math.max(floor, largest(data));
    errors.compare(`${label}${name}`, got.get(name)!.subarray(0, data.length), data, allowed);
  }
}

/** Gradient of the mean loss with respect to every tensor of the model, `grad.NAME` by name. Afterwards the model's tensors are an arena's. */
async function gradientsOf(
  model: CausalLM,
  sequences: readonly (readonly number[])[],
  targets: readonly number[],
  count: number,
): Promise<Map<string, Float32Array>> {
  const slots = model.parameterSlots();
  const shapes = slots.map(({ path, tensor }) => ({ name: path, shape: tensor.shape }));
  const arena = new ParameterArena(shapes, model.device);
  try {
    for (const slot of slots) {
      copyInto(arena.get(slot.path), slot.tensor);
      slot.replace(arena.get(slot.path));
    }
    arena.setTrainable(true);
    arena.zeroGrad();
    valueAndGrad(() => {
      const hidden = model.hiddenStates(packSequences(sequences, model.device), { checkpointing: true });
      const labels = Tensor.from(Int32Array.from(targets), [targets.length], { device: model.device });
      return weightedSum(model.tokenLogProb(hidden, labels).value, -1 / count);
    }).dispose();
    const all = (await arena.gradients!.read()) as Float32Array;
    return new Map(arena.segments.map(({ name, begin, end }) => [`grad.${name}`, all.subarray(begin, end)]));
  } finally {
    arena.dispose();
  }
}

/** case.json's `greedy`. */
interface Greedy {
  maxNewTokens: number;
  prompts: { inputIds: number[]; newTokens: number[] }[];
  leftPadded: { newTokens: number[][] };
  eosStop: { eosTokenId: number; padTokenId: number; newTokens: number[][] };
}

async function checkGreedy(
  greedy: Greedy,
  model: CausalLM,
  left: readonly number[][],
  errors: Errors,
  label: string,
): Promise<void> {
  const options = { maxNewTokens: greedy.maxNewTokens, doSample: false, eosTokenId: null };
  for (const prompt of greedy.prompts) {
    errors.same(`${label}greedy`, await model.generateIds([prompt.inputIds], options), [prompt.newTokens]);
  }
  errors.same(`${label}greedy.leftPadded`, await model.generateIds(left, options), greedy.leftPadded.newTokens);
  const { eosTokenId, padTokenId, newTokens } = greedy.eosStop;
  const stopped = await model.generateIds(left, { ...options, eosTokenId });
  const width = Math.max(...stopped.map((row) => row.length));
  errors.same(
    `${label}greedy.eosStop`,
    stopped.map((row) => [...row, ...Array(width - row.length).fill(padTokenId)]),
    newTokens,
  );
}

const load = (folder: string, c: GoldenCase) =>
  AutoModelForCausalLM.fromPretrained(folder, { device: c.options.device, dtype: "float32" });

/** Runs `body` with the checkpoint as it is and, where there is one, with config.v4.json as its config.json. */
async function withConfigs(folder: string, body: (folder: string, label: string) => Promise<void>): Promise<void> {
  await body(folder, "");
  if (!existsSync(join(folder, "config.v4.json"))) return;
  const copy = mkdtempSync(join(tmpdir(), "lowrank-golden-"));
  try {
    cpSync(folder, copy, { recursive: true });
    rmSync(join(copy, "config.json"), { force: true });
    copyFileSync(join(folder, "config.v4.json"), join(copy, "config.json"));
    await body(copy, "v4 ");
  } finally {
    rmSync(copy, { recursive: true, force: true });
  }
}

function refusal(folder: string): string | undefined {
  const { model_type: modelType } = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  return supportedModelTypes().includes(modelType) ? undefined : `model_type '${modelType}' is not supported yet`;
}

const model: GoldenHandler = async (c) => {
  const folder = join(c.dir, c.spec.model);
  const reason = refusal(folder);
  if (reason) return skipped(reason);
  const errors = new Errors();
  await withConfigs(folder, async (path, label) => {
    await using loaded = await load(path, c);
    await checkModel(c, loaded, errors, label);
  });
  return errors.outcome();
};

const packed: GoldenHandler = async (c) => {
  const folder = join(c.dir, c.spec.model);
  const reason = refusal(folder);
  if (reason) return skipped(reason);
  const { spec } = c;
  const inputs = readTensors(join(c.dir, "inputs.safetensors"));
  const want = readTensors(join(c.dir, "expected.safetensors")).get("logits")!.data;
  const ids = Array.from(inputs.get("input_ids")!.data);
  const labels = Array.from(inputs.get("labels")!.data);
  const bounds = Array.from(inputs.get("cu_seqlens")!.data);
  const sequences = bounds.slice(1).map((end, i) => ids.slice(bounds[i], end));
  const errors = new Errors();
  await withConfigs(folder, async (path, label) => {
    await using loaded = await load(path, c);
    const { logits, logProb } = await forward(loaded, sequences, [...labels.slice(1), -100]);
    errors.compare(`${label}logits`, logits, want, spec.tolerance.logitsAbs);
    let total = 0;
    sequences.forEach((_, i) => {
      const sum = -logProb.subarray(bounds[i], bounds[i + 1]! - 1).reduce((a, b) => a + b, 0);
      errors.relative(`${label}loss of sequence ${i}`, sum, spec.segmentLossSums[i], spec.tolerance.lossRel);
      total += sum;
    });
    errors.relative(`${label}loss`, total / spec.targetTokens, spec.lossFloat64, spec.tolerance.lossRel);
  });
  return errors.outcome();
};

export const modelHandlers: Record<string, GoldenHandler> = { model, packed };
