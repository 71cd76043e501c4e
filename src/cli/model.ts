import { existsSync } from "node:fs";
import { join } from "node:path";
import { LowrankError } from "../errors.js";
import { resolveModel } from "../io/hub.js";
import { readJsonFile } from "../io/json.js";
import type { CausalLM } from "../models/causal-lm.js";
import type { MathDType } from "../models/from-pretrained.js";
import { AutoModelForCausalLM } from "../models/registry.js";
import { PeftModel } from "../peft/peft-model.js";
import { AutoTokenizer, type Tokenizer } from "../text/tokenizer.js";
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

/** A model with the adapter a command names, its tokenizer, and loading shown on stderr. The caller disposes of `peft`. */
export async function openModel(options: ModelOptions): Promise<{ peft: PeftModel<CausalLM>; tokenizer: Tokenizer | undefined }> {
  const { signal } = options;
  const adapter = options.adapter === undefined ? undefined : await resolveModel(options.adapter, signal ? { signal } : {});
  const name = options.model ?? (await baseOf(adapter));
  const bar = loadingBar(name);
  const model = await AutoModelForCausalLM.fromPretrained(name, {
    onProgress: bar.onProgress,
    ...(options.loadIn4bit && { loadIn4bit: true }),
    ...(options.dtype && { dtype: options.dtype }),
    ...(signal && { signal }),
  });
  bar.finish();
  const peft = new PeftModel(model);
  try {
    if (adapter !== undefined) {
      await peft.loadAdapter(adapter, "default", { ignoreMismatchedBase: options.ignoreMismatchedBase === true });
      peft.setAdapter("default");
    }
    // What an adapter was trained with is what it is used with.
    const own =
      adapter !== undefined && existsSync(join(adapter, "tokenizer.json"))
        ? await AutoTokenizer.fromPretrained(adapter)
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
