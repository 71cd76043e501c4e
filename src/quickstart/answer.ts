import { templateVariables } from "../data/examples.js";
import { LowrankError } from "../errors.js";
import { packSequences } from "../models/batch.js";
import type { CausalLM } from "../models/causal-lm.js";
import { scope } from "../tensor/scope.js";
import { renderChatBatch } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";

/** Longer than any answer of an exam. */
const MAX_NEW_TOKENS = 32;

/** Questions as prompts of token ids, through the model's chat template. */
export async function promptIds(tokenizer: Tokenizer, questions: readonly string[]): Promise<number[][]> {
  const template = tokenizer.chatTemplate;
  if (template === undefined) throw new LowrankError("TEMPLATE", "The quickstart needs a model with a chat template");
  const variables = templateVariables(tokenizer);
  const rendered = await renderChatBatch(
    template,
    questions.map((content) => ({
      messages: [{ role: "user", content }],
      addGenerationPrompt: true,
      variables,
      templateName: tokenizer.folder,
    })),
  );
  return rendered.map((result) => {
    if (result instanceof LowrankError) throw result;
    return tokenizer.encode(result.text, { addSpecialTokens: false });
  });
}

/** Answers many questions as one batch, greedily, with the adapter named, or with none (null). */
export async function answerAll(
  model: CausalLM,
  tokenizer: Tokenizer,
  questions: readonly string[],
  { adapter, signal }: { adapter: string | null; signal?: AbortSignal | undefined },
): Promise<string[]> {
  const prompts = await promptIds(tokenizer, questions);
  const answers = await model.generateIds(prompts, {
    adapter,
    doSample: false,
    maxNewTokens: MAX_NEW_TOKENS,
    ...(signal && { signal }),
  });
  return answers.map((ids) => tokenizer.decode(ids, { skipSpecialTokens: true }).trim());
}

/** Logits of every token of every prompt, float32, with the adapters that are active. */
export async function readLogits(model: CausalLM, prompts: readonly (readonly number[])[]): Promise<Float32Array> {
  using logits = scope(() => model.logits(model.hiddenStates(packSequences(prompts, model.device))));
  return await logits.readFloat32();
}

/** True when two arrays are equal byte for byte (so −0 differs from 0, and a NaN equals itself). */
export function sameBytes(a: Float32Array, b: Float32Array): boolean {
  const bytes = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength);
  return bytes(a).equals(bytes(b));
}
