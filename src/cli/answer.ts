import type { GenerateOptions } from "../generate/options.js";
import type { Prompt } from "../generate/stream.js";
import type { CausalLM } from "../models/causal-lm.js";
import type { PeftModel } from "../peft/peft-model.js";
import { printJson } from "./output.js";

/** Streams an answer to stdout, as text or as JSON lines, and returns it. */
export async function answer(
  peft: PeftModel<CausalLM>,
  prompt: Prompt,
  options: GenerateOptions,
  json: boolean,
): Promise<string> {
  const begun = performance.now();
  let text = "";
  let tokens = 0;
  for await (const token of peft.stream(prompt, options)) {
    text += token.text;
    tokens++;
    if (json) printJson({ type: "token", text: token.text, token_id: token.tokenId });
    else process.stdout.write(token.text);
  }
  if (json) printJson({ type: "done", text, tokens, seconds: (performance.now() - begun) / 1000 });
  else process.stdout.write("\n");
  return text;
}
