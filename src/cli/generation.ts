import type { Command } from "commander";
import type { GenerateOptions } from "../generate/options.js";
import { integerFrom, numberFrom } from "./options.js";

/** Options that `chat` and `generate` share. */
export interface GenerationFlags {
  model?: string;
  adapter?: string;
  loadIn4bit?: true;
  ignoreMismatchedBase?: true;
  system?: string;
  maxNewTokens?: number;
  temperature?: number;
  topP?: number;
  topK?: number;
  seed?: number;
  json?: true;
}

export function addGenerationFlags(command: Command): Command {
  return command
    .option("--model <folder or id>", "folder, Hub id or lowrank/tiny (default: the base the adapter names)")
    .option("--adapter <folder or id>", "adapter to use")
    .option("--ignore-mismatched-base", "use the adapter though it was trained on another base")
    .option("--load-in-4bit", "quantise to NF4 while loading")
    .option("--system <text>", "system message")
    .option("--max-new-tokens <n>", "most tokens of an answer", integerFrom(1))
    .option("--temperature <t>", "0 takes the best token each time; above, tokens are drawn", numberFrom(0))
    .option("--top-p <p>", "draw from the likeliest tokens that hold this share", numberFrom(0))
    .option("--top-k <k>", "draw from the k likeliest tokens", integerFrom(0))
    .option("--seed <n>", "makes drawing repeatable", integerFrom(0))
    .option("--json", "print one JSON line a token, and one at the end");
}

/** The flags as options of `stream`. */
export function generateOptionsOf(flags: GenerationFlags): GenerateOptions {
  const { maxNewTokens, temperature, topP, topK, seed } = flags;
  return {
    maxNewTokens,
    seed,
    ...(temperature !== undefined && { temperature }),
    ...(topP !== undefined && { topP }),
    ...(topK !== undefined && { topK }),
  };
}
