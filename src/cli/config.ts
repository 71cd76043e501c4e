import { LowrankError } from "../errors.js";
import { loadTrainConfig, type TrainConfig } from "../train/config.js";
import { sayNote } from "./output.js";

/** Reads the YAML file a command names, with `key=value` overrides; notes go to stderr. A file that cannot be read is a mistake of usage. */
export async function readConfig(file: string, overrides: readonly string[] = []): Promise<TrainConfig> {
  try {
    const { config, notes } = await loadTrainConfig(file, overrides);
    for (const note of notes) sayNote(note);
    return config;
  } catch (error) {
    if (!(error instanceof LowrankError) || error.code !== "NOT_FOUND") throw error;
    throw new LowrankError("INVALID_ARGUMENT", error.message, { hint: "Give the path of a training YAML.", cause: error });
  }
}
