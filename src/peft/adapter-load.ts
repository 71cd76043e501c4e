import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { type ResolveOptions, resolveModel } from "../io/hub.js";
import type { OnNote } from "../notes.js";
import { Adapter } from "./adapter.js";
import { CONFIG_FILE } from "./adapter-file.js";
import type { BaseModel } from "./plan.js";

export interface LoadAdapterOptions extends ResolveOptions {
  /** Trainable: gradients are allocated. */
  isTrainable?: boolean;
  /** Folder inside the adapter's folder. */
  subfolder?: string;
  /** Load an adapter whose side file names another base than this one. */
  ignoreMismatchedBase?: boolean;
  /** Told which keys of adapter_config.json have no effect here. Default: a process warning. */
  onNote?: OnNote;
}

/** Reads an adapter from a folder or the Hub for a base; it is not on the base yet. */
export async function loadAdapter(base: BaseModel, folder: string, options: LoadAdapterOptions): Promise<Adapter> {
  const root = await resolveModel(folder, options);
  const path = options.subfolder === undefined ? root : join(root, options.subfolder);
  if (!existsSync(join(path, CONFIG_FILE))) {
    throw new LowrankError("NOT_FOUND", `${path} holds no adapter: ${CONFIG_FILE} is missing`, {
      hint: "Give the folder that an adapter was saved to.",
    });
  }
  return Adapter.load(base, path, options);
}
