/** Kind `combine` (golden/peft): an adapter made of others. */
import { Adapter } from "../../../src/peft/adapter.js";
import type { CombineOptions } from "../../../src/peft/combine.js";
import { type KeepMask, weightedAdapter } from "../../../src/peft/weighted.js";
import { Errors } from "../errors.js";
import type { GoldenCase, GoldenHandler } from "../types.js";
import { inGroup, load, logitsOf, tensorsOf, tokenRows } from "./peft-model.js";

/** The library's names of options. */
export const combineOptions = ({ combinationType, options }: GoldenCase["spec"]): CombineOptions => ({
  combinationType,
  ...(options.density !== undefined && { density: options.density }),
  ...(options.svd_rank !== undefined && { svdRank: options.svd_rank }),
  ...(options.majority_sign_method !== undefined && { majoritySignMethod: options.majority_sign_method }),
});

const combine: GoldenHandler = async (c) => {
  const { spec } = c;
  const { inputs, expected } = tensorsOf(c);
  await using model = await load(c, spec.base);
  const sources = new Map<string, Adapter>();
  for (const name of spec.order as string[]) sources.set(name, await Adapter.load(model, inGroup(c, spec.adapters[name])));
  const mask: KeepMask = async (module, adapter, what) => inputs.get(`mask.${module}.${adapter}.${what}`)!.data;
  const mix = await weightedAdapter(model, sources, spec.weights, combineOptions(spec), spec.masks ? mask : undefined);
  const errors = new Errors();
  const { config, plan, arena } = mix;
  errors.same("r, alpha", [config.r, config.loraAlpha], [spec.result.r, spec.result.lora_alpha]);
  errors.same("target_modules", [...(config.targetModules as string[])].sort(), [...spec.result.target_modules].sort());
  errors.same("ranks", Object.fromEntries(plan.pairs.map(({ module, rank }) => [module, rank])), spec.result.ranks);
  for (const { module, a, b, rank, scale } of plan.pairs) {
    errors.same(`scaling of ${module}`, scale, 1);
    const [A, B] = [await arena.get(a).readFloat32(), await arena.get(b).readFloat32()];
    for (const [key, got, tolerance] of [
      [`A.${module}`, A, spec.tolerance.A],
      [`B.${module}`, B, spec.tolerance.B],
      [`delta.${module}`, product(B, A, rank), spec.tolerance.delta],
    ] as const) {
      const want = expected.get(key);
      if (want) errors.compare(key, got, want.data, tolerance);
    }
  }
  mix.attach(model, "mix");
  const logits = await logitsOf(model, inputs, { names: ["mix"] });
  errors.compare("logits", logits, tokenRows(expected.get("logits")!, inputs), spec.tolerance.logits);
  mix.detach(model, "mix");
  for (const adapter of [mix, ...sources.values()]) adapter.dispose();
  return errors.outcome();
};

/** b [n, r] · a [r, k]. */
function product(b: Float32Array, a: Float32Array, r: number): Float32Array {
  const [n, k] = [b.length / r, a.length / r];
  return Float32Array.from({ length: n * k }, (_, at) => {
    let sum = 0;
    for (let i = 0; i < r; i++) sum += b[Math.floor(at / k) * r + i]! * a[i * k + (at % k)]!;
    return sum;
  });
}

export const combineHandlers: Record<string, GoldenHandler> = { combine };
