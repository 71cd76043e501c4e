#!/usr/bin/env node
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { benchCommand } from "./commands/bench.js";
import { chatCommand } from "./commands/chat.js";
import { dataCommand } from "./commands/data.js";
import { doctorCommand } from "./commands/doctor.js";
import { estimateCommand } from "./commands/estimate.js";
import { generateCommand } from "./commands/generate.js";
import { mergeCommand } from "./commands/merge.js";
import { quickstartCommand } from "./commands/quickstart.js";
import { trainCommand } from "./commands/train.js";
import { describeError, EXIT, exitCodeOf } from "./exit.js";
import { paint, say } from "./output.js";

const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as { version: string };

const program = new Command("lowrank")
  .description("LoRA and QLoRA fine-tuning of language models, without Python")
  .version(version)
  .showSuggestionAfterError()
  .showHelpAfterError("(run with --help for the options)")
  .exitOverride();

/** A command and those below it throw their mistakes, so that one place decides the exit code. */
function throwing(command: Command): Command {
  for (const below of command.commands) throwing(below);
  return command.exitOverride().showSuggestionAfterError().showHelpAfterError("(run with --help for the options)");
}

for (const make of [
  trainCommand,
  chatCommand,
  generateCommand,
  mergeCommand,
  dataCommand,
  estimateCommand,
  benchCommand,
  quickstartCommand,
  () => doctorCommand(version),
]) {
  program.addCommand(throwing(make()));
}

// A reader that has seen enough, such as head, ends the command.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code !== "EPIPE") throw error;
  process.exit(EXIT.ok);
});

try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) {
    // Help and version are no errors; commander has printed everything else already.
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  } else {
    say(`${paint("red", "error:")} ${describeError(error)}`);
    process.exitCode = exitCodeOf(error);
  }
}
