/** Trains the tiny model with dropout, accumulation and a checkpoint a step into the folder given, from where it stands; on the device given. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [outputDir, steps, device = "cpu"] = process.argv.slice(2);
const dist = process.env.LOWRANK_DIST ?? join(import.meta.dirname, "../../dist");
const load = (path) => import(pathToFileURL(join(dist, path)).href);
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`);

const { Trainer } = await load("train/trainer.js");
const { AutoModelForCausalLM } = await load("models/registry.js");
const { getPeftModel } = await load("peft/peft-model.js");
const model = await AutoModelForCausalLM.fromPretrained(join(import.meta.dirname, "../golden/cases/train/bases/llama"), { dtype: "float32", device });
const peft = getPeftModel(model, { r: 2, loraAlpha: 4, loraDropout: 0.1, targetModules: ["q_proj", "v_proj"] });
const dataset = Array.from({ length: 7 }, (_, row) => {
  const inputIds = Int32Array.from({ length: 5 + row }, (_, i) => 10 + ((row * 29 + i * 3) % 300));
  return { inputIds, labels: inputIds };
});
const resume = existsSync(outputDir) && readdirSync(outputDir).some((name) => name.startsWith("checkpoint-"));
const args = {
  outputDir, resumeFromCheckpoint: resume, maxSteps: Number(steps), seed: 5, learningRate: 5e-3, perDeviceTrainBatchSize: 2,
  gradientAccumulationSteps: 2, saveStrategy: "steps", saveSteps: 1, saveTotalLimit: 2,
};
for await (const event of new Trainer({ model: peft, dataset, args }).run()) {
  if (event.type === "start") say({ start: event.step });
  if (event.type === "checkpoint") say({ saved: event.step });
  if (event.type === "done") say({ done: true });
}
