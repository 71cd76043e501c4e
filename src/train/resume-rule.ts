import { defaultOf } from "./config-keys.js";

/** A key in which two configurations differ; null where one lacks it and it has no default. */
export interface ConfigDifference {
  key: string;
  old: unknown;
  new: unknown;
}

/** Keys in which a resumed run may always differ: where it writes, what it logs and when it saves. In the file's form and in camelCase. */
const FREE = /^(output_?dir|overwrite_?output_?dir|resume_?from_?checkpoint|report_?to|logging_?.*|save_?.*)$/i;

/**
 * What a resumed run changes and must not without being told to. Both sides are JSON values by key; a key that only a newer version knows
 * was at its default in an older checkpoint.
 */
export function configDifferences(
  old: Readonly<Record<string, unknown>>,
  current: Readonly<Record<string, unknown>>,
): ConfigDifference[] {
  const valueIn = (config: Readonly<Record<string, unknown>>, key: string) =>
    (Object.hasOwn(config, key) ? config[key] : defaultOf(key)) ?? null;
  return [...new Set([...Object.keys(old), ...Object.keys(current)])]
    .map((key) => ({ key, old: valueIn(old, key), new: valueIn(current, key) }))
    .filter((entry) => !FREE.test(entry.key) && JSON.stringify(entry.old) !== JSON.stringify(entry.new));
}
