import { bound } from "./args.js";
import { meter, TemplateRuntimeError } from "./limits.js";
import { DICT_METHODS, SEQUENCE_METHODS, STRING_METHODS } from "./methods.js";
import { pythonHas } from "./names.js";
import { isBoolean, isInteger, isSequence, isString, isUndefined, numberOf, str, typeName, undef, type Value } from "./values.js";

/** An attribute as Python's getattr finds it in a sandbox: undefined when there is none. */
function attribute(object: Value, name: string): Value | undefined {
  if (name.startsWith("_")) return undefined;
  if (object.type === "namespace") return object.value.get(name);
  if (object.type === "loop") {
    const value = object.value.attribute(name);
    if (value !== undefined) return value;
  }
  const method = isString(object)
    ? bound(STRING_METHODS, object.value as string, name)
    : object.type === "dict"
      ? bound(DICT_METHODS, object.value as Map<string, Value>, name)
      : object.type === "list" || object.type === "tuple"
        ? bound(SEQUENCE_METHODS, object, name)
        : undefined;
  if (method && !(object.type === "tuple" && name === "copy")) return method;
  // Taking it for undefined would render something else than Python does.
  if (pythonHas(object.type, name)) throw new TemplateRuntimeError(`'${name}' of a ${typeName(object)} is not supported`);
  return undefined;
}

/** An element by key or index; undefined when there is none. */
function element(object: Value, key: Value): Value | undefined {
  if (object.type === "dict") {
    if (["list", "dict", "view"].includes(key.type)) throw new TemplateRuntimeError(`unhashable type: '${typeName(key)}'`);
    return isString(key) ? object.value.get(key.value) : undefined;
  }
  if (object.type === "markup") throw new TemplateRuntimeError("a part of HTML-safe text is not supported");
  if (!isInteger(key) && !isBoolean(key)) return undefined;
  const index = Number(numberOf(key));
  if (isSequence(object)) return (object.type === "range" ? object.value.items : object.value).at(index);
  if (isString(object)) {
    meter.text(object.value.length * 4);
    const characters = charactersOf(object.value);
    const char = characters.at(index);
    return char === undefined ? undefined : str(char);
  }
  return undefined;
}

/** Characters of a text; without surrogates they are its units, and nothing need be made. */
const charactersOf = (text: string): { at(index: number): string | undefined } =>
  /[\ud800-\udfff]/.test(text) ? Array.from(text) : { at: (i) => text.at(i) };

function defined(object: Value, what: string): void {
  if (isUndefined(object)) throw new TemplateRuntimeError(`${what} is undefined`);
}

/** `object.name`: the attribute, else the entry. */
export function getAttribute(object: Value, name: string, what = "a value"): Value {
  defined(object, what);
  return attribute(object, name) ?? (object.type === "dict" ? object.value.get(name) : undefined) ?? undef;
}

/** `object[key]`: the entry, else the attribute. */
export function getItem(object: Value, key: Value, what = "a value"): Value {
  defined(object, what);
  return element(object, key) ?? (isString(key) ? attribute(object, key.value) : undefined) ?? undef;
}
