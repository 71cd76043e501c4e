import type { Files } from "./files.js";
import type { Random } from "./random.js";

/** Takes notes of a mutant, which must be few, short, and safe to print whatever the file holds. */
export function noteTaker(): (note: string) => void {
  let notes = 0;
  return (note) => {
    if (++notes > 8 || note.length > 1500 || /[^ -~]/.test(note)) throw new Error(`note ${notes}: ${JSON.stringify(note)}`);
  };
}

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
