import { join } from "node:path";
import { LowrankError } from "../../../src/errors.js";
import { loadTrainConfig, toFileKeys } from "../../../src/train/config.js";
import { estimateRun } from "../../../src/train/estimate.js";
import { loraConfigOf } from "../../../src/train/lora-keys.js";
import { filesOf } from "../files.js";
import type { Format } from "../format.js";
import { CONFIG } from "../tiny.js";

const YAML = `### model
model_name_or_path: model
quantization_bit: 4
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_alpha: 16
lora_dropout: 0.05
lora_target: q_proj, v_proj
### dataset
dataset: identity, alpaca
dataset_dir: data
dataset_vars: {name: Ada, author: Team}
template: chatml
cutoff_len: 1024
max_samples: 100
### output
output_dir: out
logging_steps: 10
save_steps: 0.5
save_total_limit: 2
plot_loss: yes
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs: {min_lr_rate: 0.1}
warmup_ratio: 0.1
bf16: true
### eval
val_size: 0.1
eval_strategy: steps
eval_steps: 500
`;

export const format: Format = {
  name: "training",
  seeds: [filesOf({ "train.yaml": YAML, "config.json": CONFIG })],
  targets: ["train.yaml"],
  async open(folder) {
    const { config } = await loadTrainConfig(join(folder, "train.yaml"));
    JSON.stringify(toFileKeys(config));
    if (config.finetuningType === "lora") loraConfigOf(config);
    // What a dry run counts; the targets of the mutant need not be those of the model.
    const estimate = await estimateRun(config, folder, 100).catch((error) => {
      if (error instanceof LowrankError && error.code === "ADAPTER_MISMATCH") return undefined;
      throw error;
    });
    if (estimate && !Object.values(estimate).every((n) => Number.isFinite(n) && n >= 0))
      throw new Error(JSON.stringify(estimate));
  },
};
