/** `generate` and `stream`: prompts of text, messages or ids in, text out. */
import { LowrankError } from "../errors.js";
import { type ChatMessage, renderChatTemplate } from "../text/chat-template.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { type DecoderModel, decodeTokens } from "./decode.js";
import { type GenerateOptions, type GenerationConfig, type ResolvedOptions, resolveOptions } from "./options.js";
import { TextEmitter } from "./text.js";

/** Text (tokenised with the model's special tokens), messages (through the chat template), or token ids. */
export type Prompt = string | readonly ChatMessage[] | readonly number[];

export interface GeneratedToken {
  /** Text that became certain with this token; may be empty. */
  text: string;
  tokenId: number;
}

/** What `generate` and `stream` need of a model. */
export interface TextModel {
  readonly generationConfig: GenerationConfig;
  readonly vocabSize: number;
  /** The tokenizer in the model's folder, if it has one. */
  tokenizer(): Promise<Tokenizer | undefined>;
  /** A decoder that keeps using the adapter which `adapter` names now, whatever is activated later. */
  decoder(adapter: string | null | undefined): DecoderModel;
}

/**
 * Streams the answer token by token. Options are checked and the adapter is captured when this is called; nothing runs, and no
 * memory is taken, before the first token is asked for. Leaving the loop frees everything.
 */
export function stream(model: TextModel, prompt: Prompt, options: GenerateOptions = {}): AsyncIterableIterator<GeneratedToken> {
  const resolved = resolveOptions(options, model.generationConfig, model.vocabSize);
  return run(model, model.decoder(options.adapter), prompt, resolved, options.tokenizer);
}

/** The whole answer: the texts of {@link stream} joined. */
export async function generate(model: TextModel, prompt: Prompt, options: GenerateOptions = {}): Promise<string> {
  let text = "";
  for await (const token of stream(model, prompt, options)) text += token.text;
  return text;
}

/** New token ids of several prompts, computed as one batch; a row ends with its end-of-sequence token. `stop` texts do not apply. */
export async function generateIds(
  model: TextModel,
  prompts: readonly (readonly number[])[],
  options: GenerateOptions = {},
): Promise<number[][]> {
  const resolved = resolveOptions(options, model.generationConfig, model.vocabSize);
  const rows = prompts.map((): number[] => []);
  using decoder = model.decoder(options.adapter);
  for await (const { sequence, tokenId } of decodeTokens(decoder, prompts, resolved)) rows[sequence]!.push(tokenId);
  return rows;
}

async function* run(
  model: TextModel,
  given: DecoderModel,
  prompt: Prompt,
  options: ResolvedOptions,
  ownTokenizer: Tokenizer | undefined,
): AsyncGenerator<GeneratedToken, void, void> {
  using decoder = given;
  const tokenizer = ownTokenizer ?? (await model.tokenizer());
  const ids = await promptIds(prompt, tokenizer);
  const text = tokenizer?.stream({ skipSpecialTokens: options.skipSpecialTokens });
  if (!text && options.stop.length > 0) throw new LowrankError("INVALID_ARGUMENT", "generate: stop texts need a tokenizer");
  const emitter = new TextEmitter(text ?? { push: () => "", flush: () => "" }, options.stop);
  for await (const { tokenId, last } of decodeTokens(decoder, [ids], options)) {
    const piece = emitter.push(tokenId, last);
    yield { text: piece.text, tokenId };
    if (piece.stopped) return;
  }
}

const isIds = (prompt: Prompt): prompt is readonly number[] => typeof prompt !== "string" && typeof prompt[0] === "number";

async function promptIds(prompt: Prompt, tokenizer: Tokenizer | undefined): Promise<readonly number[]> {
  if (isIds(prompt)) return prompt;
  if (!tokenizer) {
    throw new LowrankError(
      "INVALID_ARGUMENT",
      "generate: a prompt of text or messages needs a tokenizer, and the model's folder has none",
      {
        hint: "Give token ids, or a tokenizer in the options.",
      },
    );
  }
  if (typeof prompt === "string") return tokenizer.encode(prompt);
  const template = tokenizer.chatTemplate;
  if (template === undefined) {
    throw new LowrankError("TEMPLATE", "generate: messages need a chat template, and this model has none", {
      hint: "Give the prompt as text.",
    });
  }
  const variables = Object.fromEntries(Object.entries(tokenizer.specialTokens).map(([name, text]) => [`${name}_token`, text]));
  const text = await renderChatTemplate(template, prompt, {
    addGenerationPrompt: true,
    variables,
    templateName: tokenizer.folder,
  });
  return tokenizer.encode(text, { addSpecialTokens: false });
}
