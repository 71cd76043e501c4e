import type { Files } from "./files.js";
import type { Random } from "./random.js";

/** One kind of input: folders that are valid, the files in them that are mutated, and the entry point that a user calls. */
export interface Format {
  name: string;
  seeds: Files[];
  /** Names of the files that may be mutated. */
  targets: string[];
  /** Mends what would hide a mutation, such as a checksum over it. */
  mend?(files: Files, random: Random): void;
  /** Opens the folder as a user does; resolves, or rejects with a LowrankError. */
  open(folder: string): Promise<void>;
}
