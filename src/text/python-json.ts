import { json } from "./jinja/print.js";
import { fromJs } from "./jinja/values.js";

/** A value as Python's json.dumps(value, ensure_ascii=False) prints it; see `parseJson` for numbers. */
export const pythonJson = (value: unknown): string =>
  json(fromJs(value), { ensureAscii: false, indent: undefined, separators: undefined, sortKeys: false });
