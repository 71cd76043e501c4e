/** Kind `optimizer` (golden/train): one float32 parameter under AdamW or SGD, step by step. */
import { join } from "node:path";
import { AdamW, type AdamWOptions } from "../../../src/optim/adamw.js";
import { ParameterArena } from "../../../src/optim/arena.js";
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
  groups?: AdamWOptions["groups"],
): Optimizer | undefined {
  const { name, betas, eps, momentum, dampening, nesterov, weight_decay: weightDecay } = settings;
  if (name === "loraplus_adamw") return new AdamW(arena, { betas, eps, maxGradNorm, ...(groups && { groups }) });
  if (name === "adamw") return new AdamW(arena, { betas, eps, weightDecay, maxGradNorm });
  if (name === "sgd") return new SGD(arena, { momentum, dampening, nesterov, weightDecay, maxGradNorm });
  return undefined;
}

const optimizer: GoldenHandler = async ({ dir, spec, options }) => {
  if (spec.dtype !== "float32") return skipped(`parameters are trained in float32, not ${spec.dtype}`);
  const inputs = readTensors(join(dir, spec.inputs));
  const expected = readTensors(join(dir, spec.expectedTensors));
  const arena = new ParameterArena([{ name: "param", shape: spec.shape }], getDevice(options.device));
  const subject = optimizerOf(arena, spec.optimizer);
  if (!subject) {
    arena.dispose();
    return skipped(`optimizer '${spec.optimizer.name}' is not supported yet`);
  }
  arena.setTrainable(true);
  const param = arena.get("param");
  param.upload(inputs.get("param")!.data as Float32Array);
  const errors = new Errors();
  const unseen = new Set(expected.keys());
  for (let step = 0; step < spec.steps; step++) {
    param.grad!.upload(inputs.get(`grad.${step}`)!.data as Float32Array);
    subject.step(spec.lr?.[step] ?? spec.optimizer.lr);
    for (const [name, tensor] of Object.entries({ param, ...subject.state })) {
      const want = expected.get(`${name}.${step}`);
      if (!want) continue;
      unseen.delete(`${name}.${step}`);
      const tolerance = name === "param" ? spec.tolerance.param : spec.tolerance.state;
      errors.relativeToLargest(`${name}.${step}`, (await tensor.readFloat32()).subarray(0, param.size), want.data, tolerance);
    }
  }
  if (unseen.size > 0) errors.wrong.push(`nothing to compare with ${[...unseen].join(", ")}`);
  subject.dispose();
  arena.dispose();
  return errors.outcome();
};

export const optimizerHandlers: Record<string, GoldenHandler> = { optimizer };
