import { buildExamples } from "../data/examples.js";
import type { CausalLM } from "../models/causal-lm.js";
import { LoraConfig } from "../peft/config.js";
import type { PeftModel } from "../peft/peft-model.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { StepEvent } from "../train/events.js";
import { Trainer } from "../train/trainer.js";
import { type AdapterName, adapterTraining } from "./adapters.js";
import { ADAPTER_RECIPE } from "./recipe.js";

export interface TrainAdapterOptions {
  seed: number;
  /** Default: the recipe's. */
  maxSteps?: number | undefined;
  signal?: AbortSignal | undefined;
  onStep: (event: StepEvent) => void;
}

export interface TrainedAdapter {
  /** Trained parameters. */
  parameters: number;
  examples: number;
  /** Mean loss of the last ten steps, in nats a token. */
  loss: number;
  seconds: number;
}

/** Adds a fresh adapter to the model, makes it the active one and trains it on its rows. */
export async function trainAdapter(
  peft: PeftModel<CausalLM>,
  tokenizer: Tokenizer,
  adapter: AdapterName,
  { seed, maxSteps, signal, onStep }: TrainAdapterOptions,
): Promise<TrainedAdapter> {
  const started = performance.now();
  const rows = adapterTraining(adapter, seed).map(({ question, answer }) => ({
    kind: "chat" as const,
    messages: [
      { role: "user", content: question },
      { role: "assistant", content: answer },
    ],
    tools: null,
  }));
  const { examples } = await buildExamples(rows, tokenizer, { cutoffLen: peft.base.config.maxPositions });
  peft.addAdapter(adapter, new LoraConfig(ADAPTER_RECIPE.lora), { seed });
  peft.setAdapter(adapter);
  const args = { ...ADAPTER_RECIPE.args, seed, ...(maxSteps !== undefined && { maxSteps }) };
  const losses: number[] = [];
  let parameters = 0;
  for await (const event of new Trainer({ model: peft, dataset: examples, args }).run(signal && { signal })) {
    if (event.type === "start") parameters = event.trainableParameters;
    if (event.type !== "step") continue;
    losses.push(event.loss);
    onStep(event);
  }
  const last = losses.slice(-10);
  return {
    parameters,
    examples: examples.length,
    loss: last.reduce((sum, loss) => sum + loss, 0) / last.length,
    seconds: (performance.now() - started) / 1000,
  };
}
