import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { resolveModel } from "../io/hub.js";
import { readJsonFile } from "../io/json.js";
import type { CausalLM } from "../models/causal-lm.js";
import type { FromPretrainedOptions, MathDType } from "../models/from-pretrained.js";
import { AutoModelForCausalLM } from "../models/registry.js";
import { PeftModel } from "../peft/peft-model.js";
import { AutoTokenizer, type Tokenizer } from "../text/tokenizer.js";
import { sayNote } from "./output.js";
import { loadingBar } from "./progress.js";

export interface ModelOptions {
  /** Folder, Hub id or `lowrank/tiny`; default: the base that the adapter names. */
  model?: string;
  adapter?: string;
  loadIn4bit?: boolean;
  /** Use the adapter though it was trained on another base. */
  ignoreMismatchedBase?: boolean;
  dtype?: MathDType;
  signal?: AbortSignal;
}

/** A model, its loading shown on stderr. */
export async function loadModel(name: string, options: FromPretrainedOptions = {}): Promise<CausalLM> {
  const bar = loadingBar(name);
  // Kept until the bar's line has ended.
  let notes: string[] | undefined = [];
  const model = await AutoModelForCausalLM.fromPretrained(name, {
    ...options,
    onProgress: bar.onProgress,
    onNote: (note) => (notes ? notes.push(note) : sayNote(note)),
  });
  bar.finish();
  for (const note of notes) sayNote(note);
  notes = undefined;
  return model;
}

/** A model with the adapter a command names, its tokenizer, and loading shown on stderr. The caller disposes of `peft`. */
export async function openModel(options: ModelOptions): Promise<{ peft: PeftModel<CausalLM>; tokenizer: Tokenizer | undefined }> {
  const { signal } = options;
  const adapter = options.adapter === undefined ? undefined : await resolveModel(options.adapter, signal ? { signal } : {});
  const name = options.model ?? (await baseOf(adapter));
  const model = await loadModel(name, {
    ...(options.loadIn4bit && { loadIn4bit: true }),
    ...(options.dtype && { dtype: options.dtype }),
    ...(signal && { signal }),
  });
  const peft = new PeftModel(model);
  try {
    if (adapter !== undefined) {
      await peft.loadAdapter(adapter, "default", {
        ignoreMismatchedBase: options.ignoreMismatchedBase === true,
        onNote: sayNote,
      });
      peft.setAdapter("default");
    }
    // What an adapter was trained with is what it is used with.
    const own =
      adapter !== undefined && existsSync(join(adapter, "tokenizer.json"))
        ? await AutoTokenizer.fromPretrained(adapter, { onNote: sayNote })
        : undefined;
    return { peft, tokenizer: own ?? (await model.tokenizer()) };
  } catch (error) {
    peft.dispose();
    throw error;
  }
}

async function baseOf(adapter: string | undefined): Promise<string> {
  if (adapter === undefined)
    throw new LowrankError("INVALID_ARGUMENT", "--model is missing", { hint: "Give a folder, a Hub id, or lowrank/tiny." });
  const path = join(adapter, "adapter_config.json");
  if (!existsSync(path)) throw new LowrankError("NOT_FOUND", `${adapter} holds no adapter: adapter_config.json is missing`);
  const base = (await readJsonFile(path)).base_model_name_or_path;
  if (typeof base === "string" && base !== "") return base;
  throw new LowrankError("INVALID_ARGUMENT", `${path} does not name a base model`, { hint: "Name it with --model." });
}
