import { meter, TemplateRuntimeError } from "./limits.js";
import { rangeOf } from "./loops.js";
import { isBoolean, isInteger, isNone, isString, list, numberOf, str, tuple, typeName, type Value } from "./values.js";

/** Python's slice.indices: where a slice of something so long begins, ends and by how much it goes. */
function indices(length: number, [start, stop, step]: readonly (Value | undefined)[]): [number, number, number] {
  const number = (v: Value | undefined, name: string) => {
    if (v === undefined || isNone(v)) return undefined;
    if (!isInteger(v) && !isBoolean(v)) throw new TemplateRuntimeError(`slice ${name} must be an integer, not ${typeName(v)}`);
    return Number(numberOf(v));
  };
  const by = number(step, "step") ?? 1;
  if (by === 0) throw new TemplateRuntimeError("slice step cannot be zero");
  const [lowest, highest] = by > 0 ? [0, length] : [-1, length - 1];
  const bound = (v: number | undefined, otherwise: number) =>
    v === undefined ? otherwise : v < 0 ? Math.max(v + length, lowest) : Math.min(v, highest);
  const from = bound(number(start, "start"), by > 0 ? lowest : highest);
  const to = bound(number(stop, "stop"), by > 0 ? highest : lowest);
  return [from, to, by];
}

/** `object[start:stop:step]` of a text, list, tuple or range. */
export function slice(object: Value, parts: readonly (Value | undefined)[]): Value {
  const pick = <T>(items: readonly T[], begin: number, step: number, count: number) => {
    meter.spend(count);
    return Array.from({ length: count }, (_, i) => items[begin + i * step]!);
  };
  const over = (length: number) => {
    const [begin, end, step] = indices(length, parts);
    return { begin, end, step, count: Math.max(0, Math.ceil((end - begin) / step)) };
  };
  if (isString(object)) {
    const text = object.value as string;
    meter.text(text.length);
    if (/[\ud800-\udfff]/.test(text)) {
      meter.spend(text.length);
      const characters = Array.from(text);
      const { begin, step, count } = over(characters.length);
      return str(pick(characters, begin, step, count).join(""));
    }
    const { begin, step, count } = over(text.length);
    if (step === 1) {
      meter.text(count);
      return str(text.slice(begin, begin + count));
    }
    meter.spend(count);
    let out = "";
    for (let i = 0; i < count; i++) out += text[begin + i * step];
    return str(out);
  }
  if (object.type === "range") {
    const { start, step: by, items } = object.value;
    const { begin, end, step, count } = over(items.length);
    return rangeOf(start + begin * by, start + end * by, by * step, count);
  }
  if (object.type === "list" || object.type === "tuple") {
    const { begin, step, count } = over(object.value.length);
    return (object.type === "list" ? list : tuple)(pick(object.value as Value[], begin, step, count));
  }
  throw new TemplateRuntimeError(`'${typeName(object)}' object cannot be sliced`);
}
