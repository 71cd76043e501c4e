import { LowrankError } from "../errors.js";
import { type Conversation, hasGenerationMarks, measure, type Rendered, renderChatBatch } from "./chat-template.js";
import type { Offset } from "./offsets.js";
import type { Tokenizer } from "./tokenizer.js";

/** A rendered conversation with a 1 for each token the assistant wrote. */
export interface MaskedConversation {
  text: string;
  ids: number[];
  mask: Uint8Array;
}

/** Marks every token that has a character in one of the regions. */
export function maskFromRegions(offsets: readonly Offset[], regions: readonly (readonly [number, number])[]): Uint8Array {
  const mask = new Uint8Array(offsets.length);
  let r = 0;
  for (const [i, [start, end]] of offsets.entries()) {
    while (r < regions.length && regions[r]![1] <= start) r++;
    const region = regions[r];
    if (region && start < region[1] && end > region[0]) mask[i] = 1;
  }
  return mask;
}

/** The renderings that tell one assistant message apart: up to it with the generation prompt, and with it. */
interface Turn {
  before: string;
  after: string;
  message: number;
}

const startsWith = (ids: readonly number[], prefix: readonly number[]) =>
  prefix.length <= ids.length && prefix.every((id, i) => id === ids[i]);

/**
 * Masks by growing prefixes: the tokens of a turn are those that its message adds to the rendering before it. That is only
 * right where each rendering is a prefix of the next, as text and as tokens.
 *
 * @throws LowrankError TEMPLATE, details.raisedBy `prefix`, when it is not
 */
function maskFromPrefixes(tokenizer: Tokenizer, whole: string, turns: readonly Turn[]): MaskedConversation {
  const known = new Map<string, number[]>();
  const encode = (text: string): number[] => {
    const ids = known.get(text) ?? tokenizer.encode(text, { addSpecialTokens: false });
    known.set(text, ids);
    return ids;
  };
  const ids = encode(whole);
  const mask = new Uint8Array(ids.length);
  for (const { before, after, message } of turns) {
    if (!whole.startsWith(after)) throw illDefined(`the text of the first ${message + 1} messages is not a prefix of the whole`);
    if (!after.startsWith(before))
      throw illDefined(`the text that opens message ${message + 1} is not a prefix of the text with it`);
    const beforeIds = encode(before);
    const afterIds = encode(after);
    if (!startsWith(ids, afterIds) || !startsWith(afterIds, beforeIds))
      throw illDefined(`a token spans a border of message ${message + 1}`);
    mask.fill(1, beforeIds.length, afterIds.length);
  }
  return { text: whole, ids, mask };
}

function illDefined(reason: string): LowrankError {
  return new LowrankError("TEMPLATE", `This chat template does not let the assistant's tokens be found: ${reason}`, {
    hint: "Use a template with {% generation %} marks, or train each assistant message as an example of its own.",
    details: { raisedBy: "prefix", reason },
  });
}

/** What growing prefixes may take: each answer renders and encodes all that stands before it, so the work grows with the square. */
const MOST = { messages: 2 ** 17, characters: 2 ** 24 };

/** The error for a conversation whose prefixes together are too long. */
function tooLong({ messages }: Conversation): LowrankError | undefined {
  const answers = messages.filter((m) => m.role === "assistant").length;
  const characters = answers * measure(messages).characters;
  if (answers * messages.length <= MOST.messages && characters <= MOST.characters) return;
  return new LowrankError(
    "TEMPLATE",
    "The conversation is too long to find the assistant's tokens in it by growing prefixes: its answers times its messages, or times its characters, are too many",
    {
      hint: "Use a template with {% generation %} marks, or split the conversation.",
      details: { raisedBy: "limit", limit: "size", answers, messages: messages.length, characters, most: MOST },
    },
  );
}

/** True for the error that masks by growing prefixes give where they are not well defined. */
export const isIllDefined = (error: unknown): boolean => error instanceof LowrankError && error.details.raisedBy === "prefix";

/**
 * Renders conversations and finds the assistant's tokens by position: by the template's `{% generation %}` marks, else by
 * growing prefixes. No special tokens are added to what the template prints.
 *
 * @returns for each conversation its ids and mask, or the LowrankError (TEMPLATE) that refused it. Where prefixes are not well
 *   defined (see {@link isIllDefined}) a caller may split the conversation into one example per assistant message. Without marks
 *   a conversation of a great many answers is refused.
 */
export async function maskConversations(
  tokenizer: Tokenizer,
  template: string,
  conversations: readonly Conversation[],
): Promise<(MaskedConversation | LowrankError)[]> {
  return hasGenerationMarks(template)
    ? byMarks(tokenizer, template, conversations)
    : byPrefixes(tokenizer, template, conversations);
}

async function byMarks(
  tokenizer: Tokenizer,
  template: string,
  conversations: readonly Conversation[],
): Promise<(MaskedConversation | LowrankError)[]> {
  const rendered = await renderChatBatch(
    template,
    conversations.map((c) => ({ templateName: tokenizer.folder, ...c, marks: true })),
  );
  return rendered.map((r) => {
    if (r instanceof LowrankError) return r;
    return attempt(() => {
      const { ids, offsets } = tokenizer.encodeWithOffsets(r.text);
      return { text: r.text, ids, mask: maskFromRegions(offsets, r.regions) };
    });
  });
}

async function byPrefixes(
  tokenizer: Tokenizer,
  template: string,
  conversations: readonly Conversation[],
): Promise<(MaskedConversation | LowrankError)[]> {
  // Every rendering of every conversation goes to the worker at once.
  const jobs: Conversation[] = [];
  const plans = conversations.map((conversation) => {
    const refused = attempt(() => tooLong(conversation));
    if (refused) return refused;
    const c = { templateName: tokenizer.folder, ...conversation };
    const whole = jobs.push({ ...c, addGenerationPrompt: false }) - 1;
    const turns = c.messages.flatMap((m, message) => {
      if (m.role !== "assistant") return [];
      const after =
        message === c.messages.length - 1
          ? whole
          : jobs.push({ ...c, messages: c.messages.slice(0, message + 1), addGenerationPrompt: false }) - 1;
      const before =
        message === 0 ? undefined : jobs.push({ ...c, messages: c.messages.slice(0, message), addGenerationPrompt: true }) - 1;
      return [{ message, before, after }];
    });
    return { whole, turns };
  });
  const rendered = await renderChatBatch(template, jobs);
  const textOf = (job: number | undefined): string => {
    if (job === undefined) throw illDefined("the conversation begins with the assistant, so nothing opens its first message");
    const r = rendered[job] as Rendered | LowrankError;
    if (r instanceof LowrankError) throw r;
    return r.text;
  };
  return plans.map((plan) =>
    attempt(() => {
      if (plan instanceof LowrankError) throw plan;
      const turns = plan.turns.map((t): Turn => ({ message: t.message, before: textOf(t.before), after: textOf(t.after) }));
      return maskFromPrefixes(tokenizer, textOf(plan.whole), turns);
    }),
  );
}

/**
 * Every assistant message of a conversation as an example of its own: what stands before it when it is answered, then its own
 * tokens, encoded apart as they are when the model writes them. For templates that print earlier turns differently from the
 * last one, or whose tokens span the border of a message.
 *
 * @returns one entry a message; a LowrankError where the message is not a continuation of what opens it
 */
export async function maskTurns(
  tokenizer: Tokenizer,
  template: string,
  conversation: Conversation,
): Promise<(MaskedConversation | LowrankError)[]> {
  const named = { templateName: tokenizer.folder, ...conversation };
  const { messages } = conversation;
  const ends = messages.flatMap((m, i) => (m.role === "assistant" && i > 0 ? [i] : []));
  const rendered = await renderChatBatch(
    template,
    ends.flatMap((i) => [
      { ...named, messages: messages.slice(0, i), addGenerationPrompt: true },
      { ...named, messages: messages.slice(0, i + 1), addGenerationPrompt: false },
    ]),
  );
  return ends.map((message, n) => {
    const [before, after] = [rendered[2 * n]!, rendered[2 * n + 1]!];
    if (before instanceof LowrankError) return before;
    if (after instanceof LowrankError) return after;
    if (!after.text.startsWith(before.text))
      return illDefined(`the text that opens message ${message + 1} is not a prefix of the text with it`);
    const prompt = tokenizer.encode(before.text, { addSpecialTokens: false });
    const answer = tokenizer.encode(after.text.slice(before.text.length), { addSpecialTokens: false });
    const ids = [...prompt, ...answer];
    return { text: after.text, ids, mask: Uint8Array.from(ids, (_, i) => (i < prompt.length ? 0 : 1)) };
  });
}

function attempt<T>(body: () => T): T | LowrankError {
  try {
    return body();
  } catch (error) {
    if (error instanceof LowrankError) return error;
    throw error;
  }
}
