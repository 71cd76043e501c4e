import { readdir } from "node:fs/promises";
import { Command, Option } from "commander";
import { LowrankError } from "../../errors.js";
import type { CausalLM } from "../../models/causal-lm.js";
import type { SavedDType } from "../../models/save-pretrained.js";
import type { MergeDrift } from "../../peft/merge-check.js";
import type { PeftModel } from "../../peft/peft-model.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import { interruptible } from "../interrupt.js";
import { probe, sayDrift } from "../merge-drift.js";
import { openModel } from "../model.js";
import { ProgressBar, say } from "../output.js";

interface MergeFlags {
  model: string;
  adapter?: string;
  out: string;
  dtype: SavedDType;
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
      new Option("--dtype <dtype>", "dtype of the written weights")
        .choices(["bfloat16", "float16", "float32"])
        .default("bfloat16"),
    )
    .action(async (flags: MergeFlags) => {
      if ((await readdir(flags.out).catch(() => [])).length > 0) {
        throw new LowrankError("INVALID_ARGUMENT", `--out ${flags.out} is not empty`, { hint: "Choose a new folder." });
      }
      await interruptible("Stopping; nothing is left behind.", async (signal) => {
        const { peft, tokenizer } = await openModel({ ...flags, dtype: "float32", signal });
        try {
          const model = flags.adapter === undefined ? peft.base : await merged(peft, tokenizer, flags.dtype);
          const bar = new ProgressBar("Writing");
          await model.savePretrained(flags.out, {
            dtype: flags.dtype,
            ...(tokenizer && { tokenizer }),
            signal,
            onProgress: ({ done, total }) => bar.update(done / total, ""),
          });
          bar.finish("done");
        } finally {
          peft.dispose();
        }
      });
      say(`Saved in ${flags.out}. Talk to it: lowrank chat --model ${flags.out}`);
    });
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
  sayDrift(drift!, dtype, before, await probe(model, tokenizer));
  return model;
}
