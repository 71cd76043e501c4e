import { meter, TemplateRuntimeError } from "./limits.js";
import { fn, isBoolean, isInteger, isNone, isString, truthy, typeName, type Value } from "./values.js";

/** A filter, test or method: its parameters as Python declares them, and what it does. */
export interface Builtin<T> {
  readonly params: readonly string[];
  readonly required: number;
  readonly keywords: boolean;
  readonly variadic: boolean;
  readonly call: (self: T, args: Args) => Value;
}

/**
 * @param signature names of the parameters; `?` marks those with a default, `/` at the end forbids keywords, `*` takes anything
 */
export function builtin<T>(signature: string, call: (self: T, args: Args) => Value): Builtin<T> {
  const words = signature.split(" ").filter((w) => w !== "");
  const params = words.filter((w) => w !== "/" && w !== "*").map((w) => w.replace("?", ""));
  const required = words.filter((w) => /^\w+$/.test(w)).length;
  return { params, required, keywords: !words.includes("/"), variadic: words.includes("*"), call };
}

/** The arguments of one call, each in the place of its parameter; too many, too few or unknown ones are refused. */
export class Args {
  private readonly values: (Value | undefined)[];

  constructor(
    private readonly name: string,
    { params, required, keywords: named, variadic }: Builtin<never>,
    readonly positional: readonly Value[],
    readonly keywords: ReadonlyMap<string, Value>,
  ) {
    this.values = [...positional];
    if (variadic) return;
    if (positional.length > params.length)
      throw new TemplateRuntimeError(`${name}() takes at most ${params.length} arguments (${positional.length} given)`);
    for (const [key, value] of keywords) {
      const at = params.indexOf(key);
      if (at < 0 || !named) throw new TemplateRuntimeError(`${name}() takes no keyword argument '${key}'`);
      if (this.values[at] !== undefined) throw new TemplateRuntimeError(`${name}() got multiple values for argument '${key}'`);
      this.values[at] = value;
    }
    for (let i = 0; i < required; i++)
      if (this.values[i] === undefined) throw new TemplateRuntimeError(`${name}() misses its argument '${params[i]}'`);
  }

  get(index: number): Value | undefined {
    return this.values[index];
  }

  /** An argument that is there and not None. */
  given(index: number): Value | undefined {
    const v = this.values[index];
    return isNone(v) ? undefined : v;
  }

  /** An argument that is there. */
  text(index: number): string {
    const v = this.values[index]!;
    if (!isString(v)) throw new TemplateRuntimeError(`${this.name}() argument ${index + 1} must be str, not ${typeName(v)}`);
    meter.text(v.value.length);
    return v.value;
  }

  /** An absent argument gives the default. */
  integer(index: number, otherwise: number): number {
    const v = this.values[index];
    if (v === undefined) return otherwise;
    if (!isInteger(v) && !isBoolean(v))
      throw new TemplateRuntimeError(`${this.name}() argument ${index + 1} must be int, not ${typeName(v)}`);
    return Number(v.value);
  }

  flag(index: number): boolean {
    const v = this.values[index];
    return v !== undefined && truthy(v);
  }
}

/** A method of `self` as a value. */
export function bound<T>(table: Readonly<Record<string, Builtin<T>>>, self: T, name: string): Value | undefined {
  const method = Object.hasOwn(table, name) ? table[name] : undefined;
  return (
    method && fn((positional, keywords) => method.call(self, new Args(name, method as Builtin<never>, positional, keywords)))
  );
}
