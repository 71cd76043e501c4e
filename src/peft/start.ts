/** Initialisations that take their matrices from the base: PiSSA (Meng et al. 2024) and OLoRA (Büyükakyüz 2024). */
import { LowrankError } from "../errors.js";
import type { Linear } from "../nn/linear.js";
import type { Tensor } from "../tensor/tensor.js";
import type { LoraConfig } from "./config.js";
import { qr } from "./linalg.js";
import type { AdapterPlan, BaseModel, PlannedPair } from "./plan.js";
import { approximateSingular, largestSingular, type Products, productsOf } from "./singular.js";

/** a [r, in] and b [out, r] with which a pair starts; the base then acts without scale · b a, so that nothing changes at first. */
export interface Start {
  pair: PlannedPair;
  a: Float32Array;
  b: Float32Array;
}

export interface StartOptions {
  signal?: AbortSignal | undefined;
  /** Matrices of the base that were decomposed. */
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
}

const TAKES = /^(pissa|pissa_niter_(\d+)|olora)$/i;

/** Whether pairs of this configuration start from the base's weights. */
export const takesFromBase = ({ initLoraWeights: init }: LoraConfig): boolean => typeof init === "string" && TAKES.test(init);
/** Whether their start depends on a random subspace, and so on who drew it. */
export const takesAtRandom = ({ initLoraWeights: init }: LoraConfig): boolean => /^pissa_niter_/i.test(String(init));

/**
 * The starts of all pairs on linears, in float64 from the weights as they are. Throws UNSUPPORTED for 4-bit weights and tied heads, and
 * INVALID_CONFIG for a rank above a matrix's.
 */
export async function startsOf(
  model: BaseModel,
  config: LoraConfig,
  plan: AdapterPlan,
  { signal, onProgress }: StartOptions = {},
): Promise<Start[]> {
  if (!takesFromBase(config)) return [];
  const modules = new Map(model.modules());
  const pairs = plan.pairs.filter(({ transposed }) => !transposed);
  const linears = new Map(pairs.map(({ module }) => [module, modules.get(module) as Linear]));
  const quantized = [...linears].filter(([, { weight }]) => !weight.dense).map(([name]) => name);
  if (quantized.length > 0) {
    throw new LowrankError(
      "UNSUPPORTED",
      `init_lora_weights = "${config.initLoraWeights}" needs the base's weights before they are quantised; 4-bit: ${quantized.slice(0, 3).join(", ")}${quantized.length > 3 ? " …" : ""}`,
      {
        hint: "Load the base without loadIn4bit, or convert the adapter to plain LoRA when it is saved: it then fits any form of the base.",
      },
    );
  }
  const tied = [...linears].find(([, { weight }]) => weight.borrowed)?.[0];
  if (tied !== undefined) {
    throw new LowrankError(
      "UNSUPPORTED",
      `init_lora_weights = "${config.initLoraWeights}" takes its start out of ${tied}, which is tied to the embedding`,
      { hint: "PEFT takes it out of both, so that the model changes. Leave the head out of target_modules." },
    );
  }
  const starts: Start[] = [];
  const tell = () => onProgress?.({ done: starts.length, total: pairs.length });
  tell();
  for (const pair of pairs) {
    signal?.throwIfAborted();
    starts.push(await startOf(linears.get(pair.module)!.weight.dense!, pair, config));
    tell();
    // Other work of this process comes between two matrices.
    await new Promise((resume) => setImmediate(resume));
  }
  return starts;
}

/** The start of one pair. @param weight [out, in] */
export async function startOf(weight: Tensor, pair: PlannedPair, config: LoraConfig): Promise<Start> {
  const [out = 0, input = 0] = weight.shape;
  if (pair.rank > Math.min(input, out)) {
    throw new LowrankError(
      "INVALID_CONFIG",
      `init_lora_weights = "${config.initLoraWeights}": rank ${pair.rank} is above that of ${pair.module} [${out}, ${input}]`,
    );
  }
  if (weight.device.dry) return { pair, a: new Float32Array(pair.rank * input), b: new Float32Array(out * pair.rank) };
  using products = productsOf(await weight.readFloat32(), out, input, weight.device);
  return { pair, ...(await factors(products, pair, String(config.initLoraWeights).toLowerCase())) };
}

async function factors(w: Products, { rank, scale }: PlannedPair, init: string): Promise<{ a: Float32Array; b: Float32Array }> {
  const a = new Float32Array(rank * w.k);
  const b = new Float32Array(w.n * rank);
  const put = (r: number, left: Float64Array, right: Float64Array, factor: number) => {
    for (let j = 0; j < w.k; j++) a[r * w.k + j] = factor * right[j]!;
    for (let i = 0; i < w.n; i++) b[i * rank + r] = factor * left[i]!;
  };
  if (init === "olora") {
    // The first r columns decide the first r columns of Q; R is Qᵀ W.
    const unit = Array.from({ length: rank }, (_, j) => Float64Array.from({ length: w.k }, (_, i) => (i === j ? 1 : 0)));
    const { q } = qr(w.times(unit));
    for (const [r, row] of w.timesTransposed(q).entries()) put(r, q[r]!, row, 1);
    return { a, b };
  }
  const iterations = TAKES.exec(init)![2];
  const { u, s, v } =
    iterations === undefined ? await largestSingular(w, rank) : approximateSingular(w, rank, Number(iterations));
  for (const [r, value] of s.entries()) put(r, u[r]!, v[r]!, Math.sqrt(value / scale));
  return { a, b };
}
