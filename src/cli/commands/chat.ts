import { createInterface } from "node:readline/promises";
import { Command } from "commander";
import { LowrankError } from "../../errors.js";
import type { ChatMessage } from "../../text/chat-template.js";
import { answer } from "../answer.js";
import { addGenerationFlags, type GenerationFlags, generateOptionsOf } from "../generation.js";
import { openModel } from "../model.js";
import { paint, say } from "../output.js";

/** `lowrank chat`: a conversation on a terminal; where stdin is none, each line is a question of its own. */
export function chatCommand(): Command {
  return addGenerationFlags(new Command("chat").description("talk with a model, with or without an adapter")).action(
    async (flags: GenerationFlags) => {
      const { peft, tokenizer } = await openModel(flags);
      try {
        if (tokenizer?.chatTemplate === undefined) {
          throw new LowrankError("TEMPLATE", "this model has no chat template", {
            hint: "Continue a text with: lowrank generate --prompt …",
          });
        }
        const terminal = process.stdin.isTTY === true;
        if (terminal) say("An empty line begins anew; Ctrl-C stops an answer, Ctrl-D ends.");
        await converse(terminal, flags, async (messages, signal) =>
          answer(peft, messages, { ...generateOptionsOf(flags), tokenizer, signal }, flags.json === true),
        );
      } finally {
        peft.dispose();
      }
    },
  );
}

type Reply = (messages: ChatMessage[], signal: AbortSignal) => Promise<string>;

async function converse(terminal: boolean, flags: GenerationFlags, reply: Reply): Promise<void> {
  const lines = createInterface({ input: process.stdin, ...(terminal && { output: process.stderr, terminal }) });
  let stop: AbortController | undefined;
  lines.on("SIGINT", () => (stop ? stop.abort() : lines.close()));
  lines.setPrompt(paint("bold", "> "));
  const fresh = (): ChatMessage[] => (flags.system === undefined ? [] : [{ role: "system", content: flags.system }]);
  let messages = fresh();
  if (terminal) lines.prompt();
  for await (const line of lines) {
    const question = line.trim();
    if (question === "") {
      messages = fresh();
    } else {
      const asked = [...(terminal ? messages : fresh()), { role: "user", content: question }];
      stop = new AbortController();
      try {
        messages = [...asked, { role: "assistant", content: await reply(asked, stop.signal) }];
      } catch (error) {
        if (!stop.signal.aborted) throw error;
        say("(stopped)");
      }
      stop = undefined;
    }
    if (terminal) lines.prompt();
  }
}
