import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));

/**
 * Folder of a golden group: the copy in test/golden/cases, else the shared one beside the checkout (LOWRANK_SHARED overrides
 * its place). It may be absent: look before use.
 */
export function goldenFolder(group: string): string {
  const copied = join(root, "test", "golden", "cases", group);
  return existsSync(copied) ? copied : join(sharedFolder(), "golden", group);
}

/** Data that stays outside the repository: real models and other people's text. */
export function sharedFolder(): string {
  return process.env.LOWRANK_SHARED ?? join(root, "..", "shared");
}
