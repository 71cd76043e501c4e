import { LowrankError } from "../errors.js";
import { quiet } from "../notes.js";
import { fillRandom } from "../ops/random.js";
import { randomKey } from "../tensor/random.js";
import { Tensor } from "../tensor/tensor.js";
import { Adapter } from "./adapter.js";
import { type CombineOptions, checkCombination, combineTerms, type Term } from "./combine.js";
import { LoraConfig } from "./config.js";
import { shapeOf } from "./model-shape.js";
import { type AdapterPlan, type BaseModel, type PlannedPair, planAdapter } from "./plan.js";

/** What dare keeps of a matrix, one value an element; a golden case brings its own. */
export type KeepMask = (module: string, adapter: string, what: "A" | "B" | "delta", size: number) => Promise<ArrayLike<number>>;

/** The adapter that `add_weighted_adapter` makes of others, at scale 1. Throws INVALID_ARGUMENT or UNSUPPORTED. */
export async function weightedAdapter(
  base: BaseModel,
  sources: ReadonlyMap<string, Adapter>,
  weights: readonly number[],
  options: CombineOptions,
  masks?: KeepMask,
): Promise<Adapter> {
  const adapters = [...sources];
  const ranks = adapters.map(([, { config }]) => Math.max(config.r, ...Object.values(config.rankPattern)));
  const { kind, rank } = checkCombination(ranks, weights, options);
  for (const [name, adapter] of adapters) assertPairsOnly(name, adapter);
  const keep = masks ?? drawn(base, options);
  const values = await Promise.all(adapters.map(([, { arena }]) => arena.values.readFloat32()));
  const shape = shapeOf(base);
  const config = combinedConfig(
    shape,
    adapters.map(([, adapter]) => adapter),
    rank,
  );
  const plan = planAdapter(shape, config, undefined, quiet);
  const result = Adapter.empty(base, config, plan);
  try {
    const flat = new Float32Array(result.arena.values.size);
    for (const pair of own(plan)) {
      const found = adapters.flatMap(([name, { plan, arena }], i) => {
        const source = own(plan).find(({ module }) => module === pair.module);
        const read = (key: string) => {
          const { begin, end } = arena.segments.find((segment) => segment.name === key)!;
          return values[i]!.subarray(begin, end);
        };
        return source ? [{ name, source, a: read(first(source)), b: read(second(source)), weight: weights[i]! }] : [];
      });
      const unequal = new Set(found.map(({ source }) => source.rank)).size > 1;
      if (unequal && !kind.endsWith("svd") && kind !== "cat") {
        throw new LowrankError("INVALID_ARGUMENT", `${kind} needs adapters of one rank, in ${pair.module} they differ`);
      }
      const segment = (key: string) => result.arena.segments.find(({ name }) => name === key)!;
      const [toA, toB] = [segment(first(pair)), segment(second(pair))];
      const size = { in: toA.shape[1]!, out: toB.shape[0]! };
      const terms: Term[] = [];
      for (const { name, source, a, b, weight } of found) {
        const masked = new Map<string, ArrayLike<number>>();
        if (kind.startsWith("dare") && (options.density ?? 1) < 1) {
          const sizes = kind.endsWith("svd") ? { delta: size.in * size.out } : { A: a.length, B: b.length };
          for (const [what, n] of Object.entries(sizes)) masked.set(what, await keep(pair.module, name, what as "A", n));
        }
        terms.push({ a, b, rank: source.rank, scale: source.scale, weight, keep: (what) => masked.get(what)! });
      }
      const { a, b } = await combineTerms(kind, terms, size, rank, options, base.device);
      flat.set(a, toA.begin);
      flat.set(b, toB.begin);
      // Other work of this process comes between two modules.
      await new Promise((resume) => setImmediate(resume));
    }
    result.arena.values.upload(flat);
    return result;
  } catch (error) {
    result.dispose();
    throw error;
  }
}

/** The pairs with matrices of their own; a tied head reads the embedding's. */
const own = ({ pairs }: AdapterPlan): PlannedPair[] => pairs.filter(({ a }, i) => pairs.findIndex((pair) => pair.a === a) === i);
/** Keys of what is [rank, …] and […, rank] in the file. */
const first = ({ a, b, transposed }: PlannedPair) => (transposed ? b : a);
const second = ({ a, b, transposed }: PlannedPair) => (transposed ? a : b);

function assertPairsOnly(name: string, { plan, startsFromBase }: Adapter): void {
  if (startsFromBase) {
    throw new LowrankError(
      "UNSUPPORTED",
      `The adapter '${name}' takes from the base what it started with, which cannot be combined`,
      {
        hint: "Save it with convertToLora and load that.",
      },
    );
  }
  const others = plan.tensors.filter(({ role }) => !/^(lora|embedding)_[AB]$/.test(role));
  if (others.length === 0) return;
  const roles = [...new Set(others.map(({ role }) => role))].join(", ");
  throw new LowrankError(
    "UNSUPPORTED",
    `The adapter '${name}' holds more than LoRA matrices, which cannot be combined: ${roles}`,
    {
      hint: "Merge it into the base, or activate several adapters at once: their deltas are summed.",
    },
  );
}

/** The first one's configuration with the new rank, at scale 1, on the modules of all. */
function combinedConfig(shape: ReturnType<typeof shapeOf>, adapters: readonly Adapter[], rank: number): LoraConfig {
  const { config: like } = adapters[0]!;
  const modules = new Set(adapters.flatMap(({ plan }) => plan.pairs.map(({ module }) => module)));
  const lists = adapters.map(({ config }) => config.targetModules);
  const with_ = (targetModules: string[]) =>
    new LoraConfig({
      taskType: like.taskType,
      r: rank,
      loraAlpha: rank,
      loraDropout: like.loraDropout,
      targetModules,
      baseModelNameOrPath: like.baseModelNameOrPath,
      revision: like.revision,
      ensureWeightTying: like.ensureWeightTying,
    });
  if (lists.every((list) => Array.isArray(list))) {
    const union = with_([...new Set(lists.flat() as string[])].sort());
    const planned = planAdapter(shape, union, undefined, quiet).pairs;
    if (planned.length === modules.size && planned.every(({ module }) => modules.has(module))) return union;
  }
  return with_([...modules]);
}

/** Kept with probability `density`, by the seed, the module and the adapter. */
function drawn(base: BaseModel, { density = 1, seed = 42 }: CombineOptions): KeepMask {
  return async (module, adapter, what, size) => {
    const tensor = Tensor.empty([size], { device: base.device }).keep();
    try {
      fillRandom(tensor, { uniform: { low: 0, high: 1 } }, randomKey(seed, `${adapter}/${module}/${what}`));
      return (await tensor.readFloat32()).map((value) => (value < density ? 1 : 0));
    } finally {
      tensor.dispose();
    }
  };
}
