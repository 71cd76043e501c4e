import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LowrankError } from "../errors.js";

/** The id of the model that is part of the package: never the network. */
export const EMBEDDED_MODEL = "lowrank/tiny";

/** Folder of the embedded model. @throws LowrankError NOT_FOUND where it was not shipped or not trained yet. */
export function embeddedModelFolder(): string {
  // From src/models as from dist/models.
  const folder = fileURLToPath(new URL("../../assets/tiny", import.meta.url));
  if (existsSync(join(folder, "config.json"))) return folder;
  throw new LowrankError("NOT_FOUND", `The embedded model ${EMBEDDED_MODEL} is not in ${folder}`, {
    hint: "Reinstall the package, or in a checkout make it: npm run make:tiny-model",
  });
}
