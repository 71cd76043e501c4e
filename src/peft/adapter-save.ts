import { type FolderWriter, writeFolder } from "../io/durable.js";
import type { Adapter } from "./adapter.js";
import { verifySaved } from "./adapter-file.js";
import type { AdapterPlan, BaseModel } from "./plan.js";

/**
 * Writes an adapter below `prefix` of a folder that is being written, such as a checkpoint; `convertToLora`: one that started from the
 * base's weights as plain LoRA. Returns what lies there then.
 */
export async function writeAdapter(
  dir: FolderWriter,
  prefix: string,
  adapter: Adapter,
  base: BaseModel,
  convertToLora: boolean,
): Promise<AdapterPlan> {
  const plain = convertToLora && adapter.startsFromBase ? await adapter.converted(base) : undefined;
  try {
    await (plain ?? adapter).write(dir, prefix, base);
    return (plain ?? adapter).plan;
  } finally {
    plain?.dispose();
  }
}

/** Writes adapters in PEFT's form: "default" in the folder itself, others in subfolders of their name. Returns what lies below which prefix. */
export async function writeAdapters(
  dir: FolderWriter,
  adapters: ReadonlyMap<string, Adapter>,
  base: BaseModel,
  convertToLora: boolean,
): Promise<Map<string, AdapterPlan>> {
  const written = new Map<string, AdapterPlan>();
  for (const [name, adapter] of adapters) {
    const prefix = name === "default" ? "" : `${name}/`;
    written.set(prefix, await writeAdapter(dir, prefix, adapter, base, convertToLora));
  }
  return written;
}

/** The same into a folder of their own, durably, and reads it again. */
export async function saveAdapters(
  folder: string,
  adapters: ReadonlyMap<string, Adapter>,
  base: BaseModel,
  convertToLora: boolean,
): Promise<void> {
  const needed = [...adapters.values()].reduce((sum, { byteLength }) => sum + byteLength, 0);
  let written: Map<string, AdapterPlan> | undefined;
  const write = async (dir: FolderWriter) => {
    written = await writeAdapters(dir, adapters, base, convertToLora);
  };
  await writeFolder(folder, write, { needed: (convertToLora ? 2 : 1) * needed });
  await verifySaved(folder, written!);
}
