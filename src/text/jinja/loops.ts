import { meter, TemplateLimitError, TemplateRuntimeError } from "./limits.js";
import { bool, equal, fn, int, isBoolean, isInteger, numberOf, tuple, typeName, undef, Value } from "./values.js";

/** Jinja's sandbox allows ranges up to this length. */
const MAX_RANGE = 100_000;

/** A running `for`: its items, read ahead only as far as the body asks, for their condition may change on the way. */
export class Loop {
  readonly value = new Value("loop", this);
  private readonly items: Value[] = [];
  private next = 0;
  private index = -1;
  private last: Value | undefined;

  constructor(
    private readonly source: readonly Value[],
    private readonly passes: ((item: Value) => boolean) | undefined,
    private readonly depth: number,
  ) {}

  /** The item of the next round. */
  advance(): Value | undefined {
    this.index++;
    return this.at(this.index);
  }

  length(): number {
    while (this.read());
    return this.items.length;
  }

  private read(): boolean {
    while (this.next < this.source.length) {
      meter.spend(1);
      const item = this.source[this.next++]!;
      if (this.passes && !this.passes(item)) continue;
      this.items.push(item);
      return true;
    }
    return false;
  }

  private at(i: number): Value | undefined {
    while (this.items.length <= i && this.read());
    return this.items[i];
  }

  attribute(name: string): Value | undefined {
    const i = this.index;
    switch (name) {
      case "index":
        return int(i + 1);
      case "index0":
        return int(i);
      case "revindex":
        return int(this.length() - i);
      case "revindex0":
        return int(this.length() - i - 1);
      case "first":
        return bool(i === 0);
      case "last":
        return bool(this.at(i + 1) === undefined);
      case "length":
        return int(this.length());
      case "depth":
        return int(this.depth);
      case "depth0":
        return int(this.depth - 1);
      case "previtem":
        return this.items[i - 1] ?? undef;
      case "nextitem":
        return this.at(i + 1) ?? undef;
      case "cycle":
        return fn((args) => {
          if (args.length === 0) throw new TemplateRuntimeError("no items for cycling given");
          return args[i % args.length]!;
        });
      case "changed":
        return fn((args) => {
          const now = tuple([...args]);
          if (this.last && equal(this.last, now)) return bool(false);
          this.last = now;
          return bool(true);
        });
      default:
        return undefined;
    }
  }
}

/** `range` of Python's sandbox. */
export function range(args: readonly Value[], keywords: ReadonlyMap<string, Value>): Value {
  if (keywords.size > 0 || args.length === 0 || args.length > 3)
    throw new TemplateRuntimeError("range() takes one to three arguments and no keywords");
  const numbers = args.map((a) => {
    if (!isInteger(a) && !isBoolean(a))
      throw new TemplateRuntimeError(`'${typeName(a)}' object cannot be interpreted as an integer`);
    return Number(numberOf(a));
  });
  const [start, stop, step] = numbers.length === 1 ? [0, numbers[0]!, 1] : [numbers[0]!, numbers[1]!, numbers[2] ?? 1];
  if (step === 0) throw new TemplateRuntimeError("range() arg 3 must not be zero");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (count > MAX_RANGE)
    throw new TemplateLimitError("size", `range too big: the sandbox blocks ranges larger than ${MAX_RANGE}`);
  return rangeOf(start, stop, step, count);
}

/** The range from `start` by `step`, which has so many numbers before `stop`. */
export function rangeOf(start: number, stop: number, step: number, count: number): Value {
  meter.spend(count);
  return new Value("range", { items: Array.from({ length: count }, (_, i) => int(start + i * step)), start, stop, step });
}
