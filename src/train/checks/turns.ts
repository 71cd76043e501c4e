import { templateVariables } from "../../data/examples.js";
import { LowrankError } from "../../errors.js";
import { renderChatTemplate } from "../../text/chat-template.js";
import type { Tokenizer } from "../../text/tokenizer.js";
import type { ModelFacts } from "./facts.js";

const PROBE = ["user", "assistant", "user", "assistant"].map((role, i) => ({ role, content: `${i}` }));

/** Begin and end tokens that the chat template prints more than once in a conversation: in a row they tell turns apart, not documents. */
export async function turnTokens(
  tokenizer: Tokenizer | undefined,
  template: string | undefined,
  { bosId, endIds }: ModelFacts,
): Promise<ReadonlySet<number>> {
  const marks = new Set([...endIds, ...(bosId === undefined ? [] : [bosId])]);
  if (tokenizer === undefined || template === undefined) return new Set();
  let text: string;
  try {
    text = await renderChatTemplate(template, PROBE, { variables: templateVariables(tokenizer) });
  } catch (error) {
    // A template that refuses the probe may still print them at each turn.
    if (error instanceof LowrankError) return marks;
    throw error;
  }
  const ids = tokenizer.encode(text, { addSpecialTokens: false });
  return new Set([...marks].filter((mark) => ids.filter((id) => id === mark).length > 1));
}
