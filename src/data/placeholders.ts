import { LowrankError } from "../errors.js";
import type { DataRow } from "./rows.js";

const PLACEHOLDER = /\{\{\s*([A-Za-z_]\w*)\s*\}\}/g;

function mapTexts<T>(value: T, change: (text: string) => string): T {
  if (typeof value === "string") return change(value) as T;
  if (Array.isArray(value)) return value.map((x) => mapTexts(x, change)) as T;
  if (typeof value !== "object" || value === null || value instanceof Number) return value;
  return Object.fromEntries(Object.entries(value).map(([key, x]) => [key, mapTexts(x, change)])) as T;
}

/**
 * Fills `{{name}}` in conversations and completions; plain text is left as it is.
 *
 * @throws LowrankError DATASET that names every placeholder without a value: trained as they are they would be learnt
 */
export function fillPlaceholders(rows: readonly DataRow[], vars: Readonly<Record<string, string>>, name: string): DataRow[] {
  const missing = new Set<string>();
  const fill = (text: string) =>
    text.includes("{{")
      ? text.replace(PLACEHOLDER, (whole, key: string) => {
          if (Object.hasOwn(vars, key)) return String(vars[key]);
          missing.add(key);
          return whole;
        })
      : text;
  const filled = rows.map((row) => (row.kind === "chat" || row.kind === "completion" ? mapTexts(row, fill) : row));
  if (missing.size === 0) return filled;
  const keys = [...missing].sort();
  throw new LowrankError(
    "DATASET",
    `The data set "${name}" has placeholders without a value: ${keys.map((k) => `{{${k}}}`).join(", ")}`,
    {
      hint: `Set dataset_vars: {${keys.map((k) => `${k}: …`).join(", ")}}; to keep one as it stands, give it itself, e.g. ${keys[0]}: "{{${keys[0]}}}".`,
      details: { placeholders: keys },
    },
  );
}
