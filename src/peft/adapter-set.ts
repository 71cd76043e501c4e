import { LowrankError } from "../errors.js";
import { adaptables } from "../nn/watch.js";
import type { Adapter } from "./adapter.js";
import type { BaseModel } from "./plan.js";

/** Runs what takes an adapter over; frees it where that fails. */
export function orDispose(adapter: Adapter, take: () => void): void {
  try {
    take();
  } catch (error) {
    adapter.dispose();
    throw error;
  }
}

/** The adapters on a base, by name: owns them, and what they put into the base's modules. */
export class AdapterSet {
  readonly #base: BaseModel;
  readonly #adapters = new Map<string, Adapter>();

  constructor(base: BaseModel) {
    this.#base = base;
  }

  /** In the order in which they were added. */
  get names(): string[] {
    return [...this.#adapters.keys()];
  }

  get all(): Adapter[] {
    return [...this.#adapters.values()];
  }

  /** Throws NOT_FOUND. */
  get(name: string): Adapter {
    const adapter = this.#adapters.get(name);
    if (adapter) return adapter;
    const known = this.names.join(", ");
    throw new LowrankError("NOT_FOUND", `There is no adapter '${name}'`, {
      hint: known ? `Loaded: ${known}.` : "No adapter is loaded.",
    });
  }

  /** Throws INVALID_ARGUMENT for a name that is taken, or that cannot name a folder. */
  assertNew(name: string): void {
    if (name === "" || name.includes("/") || name.includes("\\") || name === "." || name === "..") {
      throw new LowrankError("INVALID_ARGUMENT", `'${name}' cannot be the name of an adapter: it names a folder`);
    }
    if (this.#adapters.has(name))
      throw new LowrankError("INVALID_ARGUMENT", `There is an adapter '${name}' already`, {
        hint: "Delete it first, or use another name.",
      });
  }

  /**
   * Deltas add up, each once; of weights, biases and rows that stand in for the base's only one set can. Throws NOT_FOUND and
   * INVALID_ARGUMENT.
   */
  assertSummable(names: readonly string[]): void {
    for (const name of names) this.get(name);
    if (names.length < 2) return;
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) {
      throw new LowrankError("INVALID_ARGUMENT", `The adapter '${twice}' is named twice`, {
        hint: "Make one of twice the weight with addWeightedAdapter.",
      });
    }
    for (const [path, { adapters }] of adaptables(this.#base)) {
      const parts = adapters.of(names);
      for (const what of ["weight", "bias", "rows"] as const) {
        if (parts.filter((part) => part[what]).length < 2) continue;
        throw new LowrankError("INVALID_ARGUMENT", `Cannot sum ${names.join(", ")}: several replace the ${what} of ${path}`, {
          hint: "Activate or merge one of those with modules_to_save, bias or trainable_token_indices at a time.",
        });
      }
    }
  }

  /** Takes an adapter over. */
  add(name: string, adapter: Adapter, trainable: boolean): void {
    orDispose(adapter, () => {
      this.assertNew(name);
      if (trainable) adapter.setTrainable(true);
    });
    this.#adapters.set(name, adapter);
    adapter.attach(this.#base, name);
  }

  /** Takes an adapter over in the place of another, which is freed. @param active names of those that act now */
  replace(name: string, adapter: Adapter, active: readonly string[], trainable: boolean): void {
    const former = this.get(name);
    const replaces = adapter.plan.parts.some((part) => part.weight ?? part.bias ?? part.rows);
    if (active.length > 1 && active.includes(name) && replaces) {
      throw new LowrankError(
        "INVALID_ARGUMENT",
        `The adapter does more than add deltas, and '${name}' acts together with others`,
        {
          hint: `Call setAdapter("${name}") first.`,
        },
      );
    }
    if (trainable) adapter.setTrainable(true);
    former.detach(this.#base, name);
    former.dispose();
    this.#adapters.set(name, adapter);
    adapter.attach(this.#base, name);
  }

  delete(name: string): void {
    const adapter = this.get(name);
    adapter.detach(this.#base, name);
    adapter.dispose();
    this.#adapters.delete(name);
  }
}
