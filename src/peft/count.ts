import { Linear } from "../nn/linear.js";
import type { Adapter } from "./adapter.js";
import type { AdapterPlan, BaseModel } from "./plan.js";

const elements = (shape: readonly number[]) => shape.reduce((product, n) => product * n, 1);

/** Elements of the tensors that are there to be trained, counted as PEFT does: a tied head's pair counts beside the embedding's. */
export function countParameters({ tensors, repeats }: AdapterPlan): number {
  const twice = repeats.filter(({ of }) => "key" in of && of.transposed);
  return [...tensors, ...twice].reduce((sum, { shape }) => sum + elements(shape), 0);
}

/** Those of them that are not in the place of a tensor of the base. */
export function countAdded(plan: AdapterPlan): number {
  const own = plan.tensors.filter(({ role }) => role === "bias");
  return countParameters(plan) - own.reduce((sum, { shape }) => sum + elements(shape), 0);
}

/** Elements of the base's tensors; what is shared (a tied head) counts once. */
export function countBase(base: BaseModel): number {
  let count = 0;
  for (const [, module] of base.modules()) {
    if (module instanceof Linear) {
      if (!module.weight.borrowed) count += module.weight.inFeatures * module.weight.outFeatures;
      count += module.bias?.size ?? 0;
    } else {
      for (const [, tensor] of module.tensors()) count += tensor.size;
    }
  }
  return count;
}

/** Trainable and all parameters of a base with adapters beside it. */
export function countWith(
  base: BaseModel,
  adapters: readonly Pick<Adapter, "plan" | "arena">[],
): { trainable: number; all: number } {
  let trainable = 0;
  let all = countBase(base);
  for (const { plan, arena } of adapters) {
    all += countAdded(plan);
    if (arena.gradients) trainable += countParameters(plan);
  }
  return { trainable, all };
}

/** `trainable params: 1,792 || all params: 141,376 || trainable%: 1.2675` */
export function parametersText(trainable: number, all: number): string {
  const comma = (n: number) => n.toLocaleString("en-US");
  return `trainable params: ${comma(trainable)} || all params: ${comma(all)} || trainable%: ${((100 * trainable) / all).toFixed(4)}`;
}
