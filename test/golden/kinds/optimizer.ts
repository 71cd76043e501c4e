/** Kind `optimizer` (golden/train): one parameter under one optimizer, step by step. */
import { join } from "node:path";
import { bfloat16ToFloat32 } from "../../../src/half.js";
import { Adafactor } from "../../../src/optim/adafactor.js";
import { Adam, AdamW } from "../../../src/optim/adamw.js";
import { ParameterArena } from "../../../src/optim/arena.js";
import { Lion } from "../../../src/optim/lion.js";
import type { Optimizer } from "../../../src/optim/optimizer.js";
import { SGD } from "../../../src/optim/sgd.js";
import { getDevice } from "../../../src/tensor/device.js";
import { Errors } from "../errors.js";
import { readTensors } from "../tensors.js";
import { type GoldenHandler, skipped } from "../types.js";

/** The optimizer that a case's `optimizer` names, over `arena`; undefined: not supported. */
export function optimizerOf(
  arena: ParameterArena,
  // biome-ignore lint/suspicious/noExplicitAny: as in case.json
  settings: any,
  maxGradNorm = 0,
): Optimizer | undefined {
  const { name, betas, eps, momentum, dampening, nesterov, weight_decay: weightDecay } = settings;
  const min8bitSize = settings.min8bitSize ?? settings.min_8bit_size ?? 4096;
  const eight = { bits: 8, min8bitSize } as const;
  if (name === "adamw") return new AdamW(arena, { betas, eps, weightDecay, maxGradNorm });
  if (name === "adamw_8bit") return new AdamW(arena, { betas, eps, weightDecay, maxGradNorm, ...eight });
  if (name === "adam") return new Adam(arena, { betas, eps, weightDecay, maxGradNorm });
  if (name === "adam_8bit") return new Adam(arena, { betas, eps, weightDecay, maxGradNorm, ...eight });
  if (name === "lion") return new Lion(arena, { betas, weightDecay, maxGradNorm });
  if (name === "lion_8bit") return new Lion(arena, { betas, weightDecay, maxGradNorm, ...eight });
  if (name === "sgd") return new SGD(arena, { momentum, dampening, nesterov, weightDecay, maxGradNorm });
  if (name === "adafactor") {
    // transformers' own defaults, which are not those of its Trainer.
    const { clip_threshold: clipThreshold, decay_rate: decayRate, beta1, warmup_init: warmupInit = false } = settings;
    const { scale_parameter: scaleParameter = true, relative_step: relativeStep = true } = settings;
    const first = beta1 === null || beta1 === undefined ? {} : { beta1 };
    return new Adafactor(arena, {
      eps,
      clipThreshold,
      decayRate,
      ...first,
      weightDecay,
      maxGradNorm,
      scaleParameter,
      relativeStep,
      warmupInit,
    });
  }
  return undefined;
}

/** Whether codes are those expected but for a share that lies one beside. */
function compareCodes(errors: Errors, name: string, got: ArrayLike<number>, want: ArrayLike<number>, share: number): void {
  const far = Array.from(want, (code, i) => Math.abs(code - got[i]!));
  const off = far.filter((distance) => distance > 0).length / far.length;
  if (got.length < want.length || far.some((distance) => distance > 1) || off > share)
    errors.wrong.push(`${name}: ${off} of the codes differ, by up to ${Math.max(...far)} (allowed ${share} by 1)`);
}

/** The parameter, of which a share may lie apart because a code of a moment does. */
function compareParameter(
  errors: Errors,
  name: string,
  got: Float32Array,
  want: ArrayLike<number>,
  tolerance: number,
  share: number,
) {
  const largest = Array.from(want).reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1;
  const distances = Array.from(want, (x, i) => Math.abs(x - got[i]!) / largest)
    .map((distance) => (Number.isNaN(distance) ? Number.POSITIVE_INFINITY : distance))
    .sort((x, y) => x - y);
  const last = Math.max(0, Math.ceil(distances.length * (1 - share)) - 1);
  errors.compare(name, [distances[last]!], [0], tolerance);
}

const optimizer: GoldenHandler = async ({ dir, spec, options }) => {
  const inputs = readTensors(join(dir, spec.inputs));
  const expected = readTensors(join(dir, spec.expectedTensors));
  const arena = new ParameterArena([{ name: "param", shape: spec.shape }], getDevice(options.device), { dtype: spec.dtype });
  const subject = optimizerOf(arena, spec.optimizer, spec.maxGradNorm ?? spec.optimizer.max_grad_norm ?? 0);
  if (!subject) {
    arena.dispose();
    return skipped(`optimizer '${spec.optimizer.name}' is not supported yet`);
  }
  arena.setTrainable(true);
  const param = arena.get("param");
  const initial = inputs.get("param")!.data as Float32Array;
  param.upload(spec.dtype === "bfloat16" ? Uint16Array.from(new Uint32Array(initial.buffer), (bits) => bits >>> 16) : initial);
  const errors = new Errors();
  const unseen = new Set(expected.keys());
  const {
    param: paramTolerance,
    state: stateTolerance,
    absmax,
    paramOutlierShare = 0,
    codesMayDifferByOneShare,
  } = spec.tolerance;
  for (let step = 0; step < spec.steps; step++) {
    param.grad!.upload(inputs.get(`grad.${step}`)!.data as Float32Array);
    subject.step(spec.lr?.[step] ?? spec.optimizer.lr ?? 0);
    // bitsandbytes calls moments state1 and state2 whatever their width.
    const { exp_avg: first, exp_avg_sq: second } = subject.state;
    const names = { param, ...(first && { state1: first }), ...(second && { state2: second }), ...subject.state };
    for (const [name, tensor] of Object.entries(names)) {
      const label = `${name}.${step}`;
      const want = expected.get(label);
      if (!want) continue;
      unseen.delete(label);
      const raw = await tensor.read();
      const got = (raw instanceof Uint16Array ? bfloat16ToFloat32(raw) : (raw as Float32Array)).subarray(0, want.data.length);
      if (spec.tolerance.informationOnly) {
        // Another quantiser made these states; the parameter must still lie near.
        if (name === "param") compareParameter(errors, label, got, want.data, 0.05, 0.01);
      } else if (name === "param") compareParameter(errors, label, got, want.data, paramTolerance, paramOutlierShare);
      else if (want.dtype === "U8") compareCodes(errors, label, got, want.data, codesMayDifferByOneShare);
      else
        errors.relativeToLargest(label, got, want.data, name.startsWith("absmax") ? (absmax ?? stateTolerance) : stateTolerance);
    }
  }
  if (unseen.size > 0) errors.wrong.push(`nothing to compare with ${[...unseen].join(", ")}`);
  subject.dispose();
  arena.dispose();
  return errors.outcome();
};

export const optimizerHandlers: Record<string, GoldenHandler> = { optimizer };
