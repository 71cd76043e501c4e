import { Command, Option } from "commander";
import { LowrankError } from "../../errors.js";
import { assertSound } from "../../train/checks/finding.js";
import { ABOUT_SETTINGS } from "../../train/checks/run.js";
import { parseTrainConfig, type TrainConfig } from "../../train/config.js";
import type { PreparedData } from "../../train/run-config.js";
import { readConfig } from "../config.js";
import { prepareShown, previewOf, printReport, printShown, reportOf, type Shown, worthShowing } from "../data-report.js";
import { integerFrom } from "../options.js";
import { printJson } from "../output.js";

interface PreviewFlags {
  model?: string;
  template?: string;
  datasetDir?: string;
  var?: string[];
  stage: "sft" | "pt";
  cutoffLen?: number;
  row?: number;
  rows: number;
  json?: true;
}

/** `lowrank data preview`: counts, lengths and mistakes of a data set, and examples with the learnt tokens marked. */
export function dataCommand(): Command {
  const preview = new Command("preview")
    .description("show counts, lengths, mistakes, and examples with the learnt tokens marked")
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
    .option("--row <n>", "show this example", integerFrom(1))
    .option("--rows <n>", "how many of the first examples to show, besides the longest and one that is cut", integerFrom(0), 1)
    .option("--json", "one JSON line on stdout")
    .action(async (dataset: string, flags: PreviewFlags) => {
      const config = await configOf(dataset, flags);
      const data = await prepareShown(config);
      const findings = data.findings.filter((found) => isYaml(dataset) || !ABOUT_SETTINGS.has(found.code));
      const shown = chosen(flags, data);
      if (flags.json) {
        const previews = shown.map(({ index }) => ({ example: index + 1, text: previewOf(data, false, index) }));
        printJson({ ...reportOf(data, findings), preview: previews[0]?.text, previews });
      } else {
        printReport(data, findings, config.cutoffLen);
        printShown(data, shown);
      }
      assertSound(findings);
    });
  return new Command("data").description("look at data sets").addCommand(preview);
}

const isYaml = (path: string) => /\.ya?ml$/i.test(path);

function chosen({ row, rows }: PreviewFlags, data: PreparedData): Shown[] {
  if (row === undefined) return worthShowing(data, rows);
  if (row > data.train.length)
    throw new LowrankError("INVALID_ARGUMENT", `--row ${row}: there are ${data.train.length} examples`);
  return [{ index: row - 1, why: "" }];
}

async function configOf(dataset: string, flags: PreviewFlags): Promise<TrainConfig> {
  if (isYaml(dataset)) {
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
