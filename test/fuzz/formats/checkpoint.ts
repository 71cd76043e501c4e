import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join, relative } from "node:path";
import { addChecksum, manifestText } from "../../../src/io/manifest.js";
import { AutoModelForCausalLM } from "../../../src/models/registry.js";
import { getPeftModel } from "../../../src/peft/peft-model.js";
import type { TrainingArguments } from "../../../src/train/arguments.js";
import { Trainer } from "../../../src/train/trainer.js";
import { type Files, filesOf } from "../files.js";
import type { Format } from "../format.js";
import { modelFiles } from "../tiny.js";

const root = mkdtempSync(join(tmpdir(), "lowrank-fuzz-run-"));
for (const [name, content] of filesOf(modelFiles())) writeFileSync(join(root, name), content);
const model = await AutoModelForCausalLM.fromPretrained(root, { dtype: "float32" });
const dataset = [1, 2, 3, 4].map((i) => ({ inputIds: Int32Array.of(i, 5, 6), labels: Int32Array.of(-100, 5, 6) }));
const ARGS: TrainingArguments = { perDeviceTrainBatchSize: 1, maxSteps: 3, saveSteps: 2, loggingSteps: 1, seed: 1 };

function trainer(outputDir: string, args: TrainingArguments) {
  const peft = getPeftModel(model, { r: 2, loraAlpha: 4, targetModules: ["q_proj"] });
  return { peft, run: new Trainer({ model: peft, dataset, args: { ...ARGS, outputDir, ...args } }) };
}

const made = trainer(join(root, "run"), {});
await made.run.train();
made.peft.unload();
const names = readdirSync(join(root, "run"), { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
const files: Files = new Map(
  names.map((entry) => {
    const path = join(entry.parentPath, entry.name);
    return [relative(join(root, "run"), path), readFileSync(path)];
  }),
);
rmSync(root, { recursive: true });
const folder = "checkpoint-2";
for (const name of files.keys()) if (name.startsWith("checkpoint-") && !name.startsWith(`${folder}/`)) files.delete(name);
files.set(".lowrank.lock", Buffer.from(JSON.stringify({ pid: 2 ** 22 + 1, startTime: "1", bootId: null, host: hostname() })));

/** Most mutants get a manifest that agrees with them, so that what lies behind it is reached. */
function mend(mutant: Files): void {
  const manifestName = `${folder}/manifest.json`;
  let manifest: Parameters<typeof addChecksum>[0];
  try {
    const { checksum: _checksum, ...body } = JSON.parse(mutant.get(manifestName)!.toString());
    manifest = body;
    for (const name of Object.keys(manifest.files)) {
      const content = mutant.get(`${folder}/${name}`);
      if (content) manifest.files[name] = { size: content.length, sha256: createHash("sha256").update(content).digest("hex") };
    }
    mutant.set(manifestName, Buffer.from(manifestText(addChecksum(manifest))));
  } catch {
    // The manifest itself was the mutant: it stays.
  }
}

// The seed is a mended one: that it is accepted shows that mending still does what a manifest must say.
mend(files);

export const format: Format = {
  name: "checkpoint",
  seeds: [files],
  targets: [
    ...[
      "manifest.json",
      "lowrank_state.json",
      "lowrank_state.json",
      "trainer_state.json",
      "training_args.json",
      "optimizer.safetensors",
    ].map((name) => `${folder}/${name}`),
    "trainer_log.jsonl",
    ".lowrank.lock",
  ],
  mend: (mutant, random) => random.chance(0.6) && mend(mutant),
  async open(path) {
    const { peft, run } = trainer(path, { resumeFromCheckpoint: true });
    try {
      for await (const event of run.run()) {
        if (event.type === "step" && !(Number.isSafeInteger(event.step) && Number.isFinite(event.loss)))
          throw new Error(JSON.stringify(event));
        if (event.type === "step") break;
      }
    } finally {
      peft.unload();
    }
  },
};
