import { valueAndGrad } from "../../autograd/tape.js";
import { attention } from "../../ops/attention.js";
import { add, weightedSum } from "../../ops/elementwise.js";
import { glu } from "../../ops/glu.js";
import { type LinearLayer, linearGroup } from "../../ops/linear.js";
import { rmsNorm } from "../../ops/rms-norm.js";
import { Weight } from "../../quant/weight.js";
import type { Device } from "../../tensor/device.js";
import { scope } from "../../tensor/scope.js";
import { Tensor } from "../../tensor/tensor.js";
import { quantiles, rounded } from "./statistics.js";

/** Small enough for the stream to keep up: what is timed is the thread that enqueues. */
const [TOKENS, WIDTH, RANK] = [4, 64, 8];
/** Ops of a scope, or of a tape; scopes of a repeat, which is waited for before the next begins. */
const OPS = 20;
const SCOPES = 100;
const REPEATS = 30;

/**
 * Rows of what JavaScript takes to enqueue an op, microseconds: its checks, its outputs and their end with the scope; `taped_us` with
 * an entry on a tape, that a backward pass takes off again without undoing it. A group of linears is one op.
 */
export async function* overheads(device: Device): AsyncGenerator<Record<string, unknown>> {
  const owned: { dispose(): void }[] = [];
  const own = <T extends { dispose(): void }>(made: T): T => {
    owned.push(made);
    return made;
  };
  const zeros = (...shape: number[]) => own(Tensor.zeros(shape, { device }));
  const parameter = (...shape: number[]) => Object.assign(zeros(...shape), { requiresGrad: true, grad: zeros(...shape) });
  try {
    const [x, norm, q] = [zeros(TOKENS, WIDTH), zeros(WIDTH), zeros(TOKENS, 1, WIDTH)];
    const cuSeqlens = own(Tensor.from(Int32Array.of(0, TOKENS), [2], { device }));
    const pair = { rowBegin: 0, rowEnd: TOKENS, a: parameter(RANK, WIDTH), b: parameter(WIDTH, RANK), scale: 1 };
    const layer = (segments: LinearLayer["segments"]): LinearLayer => ({
      weight: own(Weight.dense(Tensor.zeros([WIDTH, WIDTH], { device }))),
      bias: undefined,
      segments,
    });
    const three = (segments: LinearLayer["segments"]) => Array.from({ length: 3 }, () => layer(segments));
    const [bare, adapted] = [three([]), three([pair])];
    const ops: Record<string, () => unknown> = {
      add: () => add(x, x),
      rms_norm: () => rmsNorm(x, norm, { eps: 1e-5 }),
      glu: () => glu(x, x, "silu"),
      attention: () => attention(q, q, q, { cuSeqlens, maxSeqlen: TOKENS }),
      linear: () => linearGroup(x, bare.slice(0, 1)),
      linear_group_of_3: () => linearGroup(x, bare),
      linear_lora: () => linearGroup(x, adapted.slice(0, 1)),
      linear_lora_group_of_3: () => linearGroup(x, adapted),
    };
    const { isa } = device.info;
    for (const [op, run] of Object.entries(ops)) {
      const times = (n: number) => {
        for (let i = 0; i < n; i++) run();
      };
      const plain = await microseconds(device, () => scope(() => times(OPS)));
      const taped = await microseconds(device, () => {
        const loss = valueAndGrad(() => {
          times(OPS - 1);
          return weightedSum(x);
        });
        loss.dispose();
      });
      yield { kind: "overhead", op, isa, us: rounded(plain), taped_us: rounded(taped) };
    }
  } finally {
    for (const made of owned.reverse()) made.dispose();
  }
}

/** The median of what one of the ops of `body` takes. */
async function microseconds(device: Device, body: () => void): Promise<number> {
  const times: number[] = [];
  for (let repeat = 0; repeat < REPEATS; repeat++) {
    const begun = performance.now();
    for (let i = 0; i < SCOPES; i++) body();
    times.push(((performance.now() - begun) * 1000) / (SCOPES * OPS));
    await device.synchronize();
  }
  return quantiles(times).median;
}
