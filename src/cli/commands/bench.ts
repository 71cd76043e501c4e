import { Command, Option } from "commander";
import { type AdaptersBenchOptions, benchAdapters } from "../bench/adapters.js";
import { benchGenerate, type GenerateBenchOptions } from "../bench/generate.js";
import { GPUS } from "../bench/model/devices.js";
import { benchModel } from "../bench/model/model.js";
import { benchOps, type OpsBenchOptions } from "../bench/ops.js";
import { benchStep, type StepBenchOptions } from "../bench/step.js";
import { integerFrom } from "../options.js";
import { printJson } from "../output.js";

/** `lowrank bench ops|step|generate|adapters|model`: JSON lines on stdout. */
export function benchCommand(): Command {
  const json = new Option("--json", "JSON lines on stdout (always so)");
  const fourBit = new Option("--load-in-4bit", "quantise to NF4 while loading");
  const step = new Command("step")
    .description("a whole training step with LoRA on all linears")
    .requiredOption("--model <folder or id>", "folder, Hub id or lowrank/tiny")
    .option("--seq <n>", "tokens of a sequence", integerFrom(2), 256)
    .option("--batch <n>", "sequences", integerFrom(1), 1)
    .option("--rank <n>", "rank of the adapter", integerFrom(1), 16)
    .option("--steps <n>", "steps to time", integerFrom(1), 3)
    .addOption(new Option("--dtype <dtype>", "how products are computed").choices(["auto", "float32"]).default("auto"))
    .option("--checkpointing", "recompute layers in the backward pass")
    .addOption(fourBit)
    .addOption(json)
    .action(async (options: StepBenchOptions) => printJson(await benchStep(options)));
  const generate = new Command("generate")
    .description("prompt and decoding rates")
    .requiredOption("--model <folder or id>", "folder, Hub id or lowrank/tiny")
    .option("--prompt <n>", "tokens of the prompt", integerFrom(1), 512)
    .option("--new <n>", "tokens to generate", integerFrom(2), 64)
    .addOption(fourBit)
    .addOption(json)
    .action(async (options: GenerateBenchOptions) => printJson(await benchGenerate(options)));
  const adapters = new Command("adapters")
    .description("many adapters on one base: registering from disk, switching, memory")
    .requiredOption("--model <folder or id>", "folder, Hub id or lowrank/tiny")
    .option("--count <n>", "adapters", integerFrom(1), 100)
    .option("--rank <n>", "rank of each", integerFrom(1), 16)
    .addOption(json)
    .action(async (options: AdaptersBenchOptions) => printJson(await benchAdapters(options)));
  const ops = new Command("ops")
    .description("measured peaks, then each op at the shapes of Llama-3-8B and SmolLM2-135M")
    .option("--device <device>", "cpu or cuda:0", "cpu")
    .addOption(
      new Option("--gpu <gpu>", "whose cost model stands beside what cuda:0 takes").choices(Object.keys(GPUS)).default("h100"),
    )
    .addOption(json)
    .action(async (options: OpsBenchOptions) => {
      for await (const row of benchOps(options)) printJson(row);
    });
  const model = new Command("model")
    .description(
      "what the kernels of a GPU would take for Llama-3-8B, computed from their tile sizes: a model, nothing is measured",
    )
    .addOption(new Option("--device <gpu>", "the GPU").choices(Object.keys(GPUS)).default("h100"))
    .addOption(json)
    .action(async ({ device }: { device: string }) => {
      for await (const row of benchModel(device)) printJson(row);
    });
  return new Command("bench")
    .description("measure ops, training steps, generation and adapters")
    .addCommand(ops)
    .addCommand(step)
    .addCommand(generate)
    .addCommand(adapters)
    .addCommand(model);
}
