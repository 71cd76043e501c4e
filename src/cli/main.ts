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
  .configureOutput({ writeErr: (text) => process.stderr.write(text) })
  .exitOverride();

for (const make of [
  trainCommand,
  chatCommand,
  generateCommand,
  mergeCommand,
  dataCommand,
  estimateCommand,
  benchCommand,
  quickstartCommand,
  doctorCommand,
]) {
  program.addCommand(
    make()
      .exitOverride()
      .configureOutput({ writeErr: (text) => process.stderr.write(text) }),
  );
}

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
