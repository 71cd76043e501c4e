import { Command } from "commander";
import type { Prompt } from "../../generate/stream.js";
import { answer } from "../answer.js";
import { addGenerationFlags, type GenerationFlags, generateOptionsOf } from "../generation.js";
import { interruptible } from "../interrupt.js";
import { openModel } from "../model.js";

/** `lowrank generate`: one answer, streamed to stdout. */
export function generateCommand(): Command {
  return addGenerationFlags(new Command("generate").description("answer one prompt"))
    .requiredOption("--prompt <text>", "the question; through the chat template where the model has one")
    .option("--raw", "continue the text as it is, without the chat template")
    .action(async (flags: GenerationFlags & { prompt: string; raw?: true }) => {
      await interruptible("Stopping.", async (signal) => {
        const { peft, tokenizer } = await openModel({ ...flags, signal });
        try {
          const chats = tokenizer?.chatTemplate !== undefined && !flags.raw;
          const system = flags.system === undefined ? [] : [{ role: "system", content: flags.system }];
          const prompt: Prompt = chats ? [...system, { role: "user", content: flags.prompt }] : flags.prompt;
          await answer(peft, prompt, { ...generateOptionsOf(flags), signal, tokenizer }, flags.json === true);
        } finally {
          peft.dispose();
        }
      });
    });
}
