import {
  bool,
  dict,
  fn,
  int,
  isInteger,
  list,
  TemplateLimitError,
  TemplateRuntimeError,
  typeName,
  undef,
  type Value,
} from "./values.js";

/** Jinja's sandbox allows ranges up to this length. */
export const MAX_RANGE = 100_000;

/** The `loop` variable of round `i`. */
export function loopValue(items: Value[], i: number): Value {
  const n = items.length;
  return dict(
    new Map<string, Value>([
      ["index", int(i + 1)],
      ["index0", int(i)],
      ["revindex", int(n - i)],
      ["revindex0", int(n - i - 1)],
      ["first", bool(i === 0)],
      ["last", bool(i === n - 1)],
      ["length", int(n)],
      ["previtem", items[i - 1] ?? undef],
      ["nextitem", items[i + 1] ?? undef],
      ["cycle", fn((args) => args[i % Math.max(1, args.length)] ?? undef)],
    ]),
  );
}

/** `range` of Python's sandbox. */
export const range = fn((args) => {
  const numbers = args.map((a) => {
    if (!isInteger(a)) throw new TemplateRuntimeError(`'${typeName(a)}' object cannot be interpreted as an integer`);
    return Number(a.value);
  });
  const [start, stop, step] = numbers.length === 1 ? [0, numbers[0]!, 1] : [numbers[0]!, numbers[1]!, numbers[2] ?? 1];
  if (step === 0) throw new TemplateRuntimeError("range() arg 3 must not be zero");
  const count = Math.max(0, Math.ceil((stop - start) / step));
  if (count > MAX_RANGE) throw new TemplateLimitError(`Range too big. The sandbox blocks ranges larger than ${MAX_RANGE}.`);
  return list(Array.from({ length: count }, (_, i) => int(start + i * step)));
});
