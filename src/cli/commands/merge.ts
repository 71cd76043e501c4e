import { existsSync } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { Command, Option } from "commander";
import { LowrankError } from "../../errors.js";
import { openCheckpoint } from "../../io/checkpoint.js";
import { resolveModel } from "../../io/hub.js";
import type { CausalLM } from "../../models/causal-lm.js";
import { readConfigFile } from "../../models/config-reader.js";
import { resolveFolder } from "../../models/from-pretrained.js";
import { resolveConfig } from "../../models/registry.js";
import { SAVED_DTYPES, type SavedDType } from "../../models/save-pretrained.js";
import type { MergeDrift } from "../../peft/merge-check.js";
import { mergeIntoCheckpoint } from "../../peft/merge-checkpoint.js";
import type { PeftModel } from "../../peft/peft-model.js";
import { AutoTokenizer, type Tokenizer } from "../../text/tokenizer.js";
import { interruptible } from "../interrupt.js";
import { probe, sayDrift, sayLogits } from "../merge-drift.js";
import { openModel } from "../model.js";
import { ProgressBar, say, sayNote } from "../output.js";
import { loadingBar } from "../progress.js";

interface MergeFlags {
  model: string;
  adapter?: string;
  out: string;
  dtype?: SavedDType;
  ignoreMismatchedBase?: true;
}

/** `lowrank merge`: a model with the adapter added to its weights, or the dequantised model, as a Hugging Face folder. */
export function mergeCommand(): Command {
  return new Command("merge")
    .description("write a model with its adapter merged; without --adapter the dequantised model")
    .requiredOption("--model <folder or id>", "folder, Hub id or lowrank/tiny")
    .option("--adapter <folder or id>", "adapter to merge")
    .option("--ignore-mismatched-base", "merge the adapter though it was trained on another base")
    .requiredOption("--out <folder>", "folder to write; new or empty")
    .addOption(
      new Option("--dtype <dtype>", "dtype of the written weights (default: as a 16-bit model has them, else bfloat16)").choices(
        Object.keys(SAVED_DTYPES),
      ),
    )
    .action(async (flags: MergeFlags) => {
      if ((await readdir(flags.out).catch(() => [])).length > 0) {
        throw new LowrankError("INVALID_ARGUMENT", `--out ${flags.out} is not empty`, { hint: "Choose a new folder." });
      }
      await interruptible("Stopping; nothing is left behind.", async (signal) => {
        const loading = loadingBar(flags.model);
        const folder = await resolveFolder(flags.model, { signal, onProgress: loading.onProgress });
        loading.finish();
        // From here on the folder: asked again, the Hub might have another model under that id.
        const found = { ...flags, model: folder };
        const { quantization } = resolveConfig(await readConfigFile(folder)).config;
        if (flags.adapter !== undefined && !quantization) await mergeFiles(found, flags.adapter, signal);
        else await mergeInMemory(found, signal);
      });
      say(`Saved in ${flags.out}. Talk to it: lowrank chat --model ${flags.out}`);
    });
}

/** Merges into the files of a model that is not quantised, one tensor in memory at a time. */
async function mergeFiles(flags: MergeFlags, adapterName: string, signal: AbortSignal): Promise<void> {
  const adapter = await resolveModel(adapterName, { signal });
  const stored = await storedDType(flags.model);
  const dtype = flags.dtype ?? (stored === "float32" ? "bfloat16" : undefined);
  const tokenizer = existsSync(join(adapter, "tokenizer.json"))
    ? await AutoTokenizer.fromPretrained(adapter, { onNote: sayNote })
    : undefined;
  const bar = new ProgressBar("Merging");
  const drift = await mergeIntoCheckpoint(flags.model, adapter, flags.out, {
    ...(dtype && { dtype }),
    ...(tokenizer && { tokenizer }),
    ignoreMismatchedBase: flags.ignoreMismatchedBase === true,
    signal,
    onNote: sayNote,
    onProgress: ({ done, total }) => bar.update(done / total, ""),
  });
  bar.finish("done");
  sayDrift(drift, dtype ?? stored);
}

/** The dtype of a checkpoint's matrices. */
async function storedDType(folder: string): Promise<SavedDType> {
  const checkpoint = await openCheckpoint(folder);
  try {
    const matrix = [...checkpoint.tensors.values()].find(({ shape }) => shape.length === 2);
    return (Object.keys(SAVED_DTYPES) as SavedDType[]).find((name) => SAVED_DTYPES[name] === matrix?.dtype) ?? "bfloat16";
  } finally {
    await checkpoint.close();
  }
}

/** Writes a model that is loaded as a whole: one whose weights are 4-bit, or one without an adapter. */
async function mergeInMemory(flags: MergeFlags, signal: AbortSignal): Promise<void> {
  const { dtype = "bfloat16" } = flags;
  const { peft, tokenizer } = await openModel({ ...flags, dtype: "float32", signal });
  try {
    const model = flags.adapter === undefined ? peft.base : await merged(peft, tokenizer, dtype);
    const bar = new ProgressBar("Writing");
    await model.savePretrained(flags.out, {
      dtype,
      ...(tokenizer && { tokenizer }),
      signal,
      onProgress: ({ done, total }) => bar.update(done / total, ""),
    });
    bar.finish("done");
  } finally {
    peft.dispose();
  }
}

/** Merges, and says how far the merged model is from the unmerged one before anything is written. */
async function merged(peft: PeftModel<CausalLM>, tokenizer: Tokenizer | undefined, dtype: SavedDType): Promise<CausalLM> {
  const before = await probe(peft.base, tokenizer);
  let drift: MergeDrift | undefined;
  const model = await peft.mergeAndUnload({
    dtype,
    safeMerge: true,
    onDrift: (measured) => {
      drift = measured;
    },
  });
  sayDrift(drift!, dtype);
  sayLogits(before, await probe(model, tokenizer));
  return model;
}
