import { Command, Option } from "commander";
import { LowrankError } from "../../errors.js";
import { parseTrainConfig, type TrainConfig } from "../../train/config.js";
import { prepareData } from "../../train/run-config.js";
import { readConfig } from "../config.js";
import { countLines, countsOf, previewOf } from "../dry-run.js";
import { integerFrom } from "../options.js";
import { print, printJson } from "../output.js";

interface PreviewFlags {
  model?: string;
  template?: string;
  datasetDir?: string;
  var?: string[];
  stage: "sft" | "pt";
  cutoffLen?: number;
  row: number;
  json?: true;
}

/** `lowrank data preview`: counts of a data set, and one example with the learnt tokens marked. */
export function dataCommand(): Command {
  const preview = new Command("preview")
    .description("show counts and one example with the learnt tokens marked")
    .argument("<dataset>", "a name of dataset_info.json, a data file, or a training YAML")
    .option("--model <folder or id>", "whose tokenizer and template are used")
    .option("--template <name>", "LLaMA-Factory template name (default: the model's own)")
    .option("--dataset-dir <folder>", "folder of dataset_info.json")
    .option("--var <name=value>", "fills a {{name}} placeholder (again for each)", (text: string, all: string[] = []) => [
      ...all,
      text,
    ])
    .addOption(new Option("--stage <stage>", "how rows are read").choices(["sft", "pt"]).default("sft"))
    .option("--cutoff-len <n>", "longest example in tokens", integerFrom(2))
    .option("--row <n>", "which example to show", integerFrom(1), 1)
    .option("--json", "one JSON line on stdout")
    .action(async (dataset: string, flags: PreviewFlags) => {
      const data = await prepareData(await configOf(dataset, flags));
      const index = flags.row - 1;
      if (index >= data.train.length)
        throw new LowrankError("INVALID_ARGUMENT", `--row ${flags.row}: there are ${data.train.length} examples`);
      if (flags.json) return printJson({ ...countsOf(data), preview: previewOf(data, false, index) });
      for (const line of countLines(data)) print(line);
      print("");
      print(previewOf(data, process.stdout.isTTY === true, index));
    });
  return new Command("data").description("look at data sets").addCommand(preview);
}

async function configOf(dataset: string, flags: PreviewFlags): Promise<TrainConfig> {
  if (/\.ya?ml$/i.test(dataset)) {
    return readConfig(dataset, flags.model === undefined ? [] : [`model_name_or_path=${flags.model}`]);
  }
  if (flags.model === undefined)
    throw new LowrankError("INVALID_ARGUMENT", "--model is missing", {
      hint: "Its tokenizer and chat template make the examples.",
    });
  const vars = (flags.var ?? []).map((text) => {
    const [, name, value] = /^(\w+)=(.*)$/s.exec(text) ?? [];
    if (name === undefined) throw new LowrankError("INVALID_ARGUMENT", `--var ${text} should be name=value`);
    return [name, value!] as const;
  });
  return parseTrainConfig({
    model_name_or_path: flags.model,
    dataset,
    output_dir: "unused",
    stage: flags.stage,
    template: flags.template ?? null,
    dataset_vars: Object.fromEntries(vars),
    ...(flags.datasetDir !== undefined && { dataset_dir: flags.datasetDir }),
    ...(flags.cutoffLen !== undefined && { cutoff_len: flags.cutoffLen }),
    ...(flags.stage === "pt" && { packing: false }),
  }).config;
}
