/** Kind `optimizer` (golden/train): one float32 parameter under AdamW, step by step. */
import { join } from "node:path";
import { getDevice } from "../../../src/tensor/device.js";
import { Tensor } from "../../../src/tensor/tensor.js";
import { readTensors } from "../tensors.js";
import { type GoldenHandler, skipped } from "../types.js";

const optimizer: GoldenHandler = async ({ dir, spec, options }) => {
  const { name, betas, eps, weight_decay: weightDecay = 0 } = spec.optimizer;
  if (name !== "adamw") return skipped(`optimizer '${name}' is not supported yet`);
  if (spec.dtype !== "float32") return skipped(`parameters are trained in float32, not ${spec.dtype}`);
  const device = getDevice(options.device);
  const inputs = readTensors(join(dir, spec.inputs));
  const expected = readTensors(join(dir, spec.expectedTensors));
  const param = inputs.get("param")!.data as Float32Array;
  const n = param.length;
  const segment = new DataView(new ArrayBuffer(32));
  segment.setBigInt64(8, BigInt(n), true);
  segment.setFloat32(16, 1, true);
  segment.setFloat32(20, weightDecay, true);
  segment.setInt32(24, 32, true);
  const t = {
    param: Tensor.from(param, [n], { device }),
    grad: Tensor.empty([n], { device }),
    expAvg: Tensor.zeros([n], { device }),
    expAvgSq: Tensor.zeros([n], { device }),
    header: Tensor.zeros([64], { dtype: "uint8", device }),
    segments: Tensor.from(new Uint8Array(segment.buffer), [32], { device }),
  };
  const wrong: string[] = [];
  let worst = 0;
  const compare = async (key: string, tensor: Tensor, tolerance: number) => {
    const values = expected.get(key)?.data as Float32Array | undefined;
    if (!values) return;
    const actual = await tensor.readFloat32();
    const largest = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0);
    const error = Math.max(...Array.from(actual, (v, i) => Math.abs(v - values[i]!))) / (largest || 1);
    worst = Math.max(worst, error);
    if (!(error <= tolerance)) wrong.push(`${key} is off by ${error}`);
  };
  for (let step = 0; step < spec.steps; step++) {
    t.grad.upload(inputs.get(`grad.${step}`)!.data as Float32Array);
    device.kernels.gradStats(device.number, t.header.handle, t.grad.handle, 0);
    const lr = spec.lr?.[step] ?? spec.optimizer.lr;
    device.kernels.adamw(
      device.number,
      t.param.handle,
      t.grad.handle,
      t.expAvg.handle,
      t.expAvgSq.handle,
      t.header.handle,
      t.segments.handle,
      lr,
      betas[0],
      betas[1],
      eps,
      0,
    );
    await compare(`param.${step}`, t.param, spec.tolerance.param);
    await compare(`exp_avg.${step}`, t.expAvg, spec.tolerance.state);
    await compare(`exp_avg_sq.${step}`, t.expAvgSq, spec.tolerance.state);
  }
  for (const tensor of Object.values(t)) tensor.dispose();
  return wrong.length === 0 ? { ok: true, maxError: worst } : { ok: false, maxError: worst, reason: wrong[0]! };
};

export const optimizerHandlers: Record<string, GoldenHandler> = { optimizer };
