import { setImmediate } from "node:timers/promises";
import { LowrankError } from "../errors.js";
import type { Conversation } from "../text/chat-template.js";
import { isIllDefined, type MaskedConversation, maskConversations, maskTurns } from "../text/masks.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { countTargets, labelsFromMasks, truncate } from "./collate.js";
import type { DataRow } from "./rows.js";

/** A tokenised row. */
export interface TokenExample {
  inputIds: Int32Array;
  /** Not shifted; IGNORE where nothing is learnt. */
  labels: Int32Array;
  /** Index of the row it was made from. */
  row: number;
  /** Tokens before it was cut at cutoffLen. */
  fullLength: number;
  /** Targets that were cut off: more than 0 where the end of an answer is never learnt. */
  lostTargets: number;
}

export interface ExampleOptions {
  /** Jinja chat template; default: the tokenizer's own. */
  chatTemplate?: string | undefined;
  /** Longest sequence; what is beyond is cut off. */
  cutoffLen: number;
  /** Learn the prompt too (default false). */
  trainOnPrompt?: boolean;
  /** Learn only the last assistant message of a conversation (default false). */
  maskHistory?: boolean;
  /** Further variables of the chat template. */
  variables?: Readonly<Record<string, unknown>>;
  /** What the template's clock says. */
  now?: Date;
  onProgress?: (done: number, total: number) => void;
}

export interface ExampleStats {
  rows: number;
  examples: number;
  tokens: number;
  /** Targets after shifting. */
  targetTokens: number;
  longest: number;
  /** Examples that were cut at cutoffLen. */
  truncated: number;
  /** Rows made into one example per assistant message, because the template does not let all of them be found at once. */
  splitRows: number;
  /** Conversations whose tools the template does not print. */
  unprintedTools: number;
  /** Rows left out, by reason. */
  dropped: Record<string, number>;
}

const CHUNK = 256;
/** Why an answer is left out that begins beyond cutoffLen. */
export const CUT_AWAY = "no token to learn is left within cutoff_len";
/** Files of text have empty lines: no mistake. */
export const EMPTY_TEXT = "its text is empty";
const NO_TARGET = "it has no token to learn";

/** Special tokens by the names chat templates use. */
export function templateVariables(tokenizer: Tokenizer): Record<string, string> {
  return Object.fromEntries(Object.entries(tokenizer.specialTokens).map(([name, text]) => [`${name}_token`, text]));
}

/**
 * Tokenises rows. Labels are set by position: the assistant's tokens of conversations, the completion of prompts, every token
 * of plain text. Rows without a target are left out and counted.
 *
 * @throws LowrankError TEMPLATE when conversations meet a model without a chat template; DATASET when nothing is left to learn
 */
export async function buildExamples(
  rows: readonly DataRow[],
  tokenizer: Tokenizer,
  options: ExampleOptions,
): Promise<{ examples: TokenExample[]; stats: ExampleStats }> {
  const template = options.chatTemplate ?? tokenizer.chatTemplate;
  if (template === undefined && rows.some((row) => row.kind === "chat")) {
    throw new LowrankError("TEMPLATE", "this model has no chat template: set template: chatml | llama3 | … or use stage: pt");
  }
  const builder = new Builder(tokenizer, template ?? "", options, rows.length);
  for (let start = 0; start < rows.length; start += CHUNK) {
    await builder.add(rows.slice(start, start + CHUNK), start);
    options.onProgress?.(Math.min(rows.length, start + CHUNK), rows.length);
    // Plain text never waits for anything: signals and timers must get their turn.
    await setImmediate();
  }
  return builder.finish();
}

class Builder {
  private readonly examples: TokenExample[] = [];
  private readonly stats: ExampleStats;

  constructor(
    private readonly tokenizer: Tokenizer,
    private readonly template: string,
    private readonly options: ExampleOptions,
    rows: number,
  ) {
    this.stats = {
      rows,
      examples: 0,
      tokens: 0,
      targetTokens: 0,
      longest: 0,
      truncated: 0,
      splitRows: 0,
      unprintedTools: 0,
      dropped: {},
    };
  }

  async add(given: readonly DataRow[], first: number): Promise<void> {
    const rows = given.map((row) => (row.kind === "chat" ? this.checkTools(row) : row));
    const chats = rows.flatMap((row) => (row.kind === "chat" ? [this.conversation(row)] : []));
    const masked = await maskConversations(this.tokenizer, this.template, chats);
    let chat = 0;
    for (const [i, row] of rows.entries()) {
      if (row.kind === "broken") this.drop(row.reason);
      else if (row.kind === "text") this.text(row.text, first + i);
      else if (row.kind === "completion") this.completion(row.prompt, row.completion, first + i);
      else {
        await this.chat(chats[chat]!, masked[chat]!, first + i);
        chat++;
      }
    }
  }

  finish(): { examples: TokenExample[]; stats: ExampleStats } {
    const { examples, stats } = this;
    if (examples.length > 0) return { examples, stats };
    const reasons = Object.entries(stats.dropped).map(([reason, n]) => `${n} × ${reason}`);
    throw new LowrankError(
      "DATASET",
      `None of the ${stats.rows} rows has a token to learn: ${reasons.join("; ") || "there are no rows"}`,
      {
        hint: "Look at a row with `lowrank data preview`; a longer cutoff_len keeps answers that are cut off now.",
        details: { dropped: stats.dropped },
      },
    );
  }

  /** Many templates leave tools and calls out without a word: an answer would then be learnt as an empty one. */
  private checkTools(row: DataRow & { kind: "chat" }): DataRow {
    if (row.tools && !this.template.includes("tools")) this.stats.unprintedTools++;
    const calls = row.messages.some((m) => Array.isArray(m.tool_calls) && m.tool_calls.length > 0);
    return calls && !this.template.includes("tool_calls")
      ? { kind: "broken", reason: "it calls a tool, which the chat template does not print" }
      : row;
  }

  private conversation(row: DataRow & { kind: "chat" }): Conversation {
    const { now, variables } = this.options;
    return {
      messages: row.messages,
      tools: row.tools,
      variables: { ...templateVariables(this.tokenizer), ...variables },
      ...(now ? { now } : {}),
    };
  }

  private async chat(conversation: Conversation, masked: MaskedConversation | LowrankError, row: number): Promise<void> {
    if (!(masked instanceof LowrankError)) {
      this.push(masked.ids, this.options.maskHistory ? lastRun(masked.mask) : masked.mask, row);
      return;
    }
    if (!isIllDefined(masked)) {
      this.drop(masked.message);
      return;
    }
    const turns = await maskTurns(this.tokenizer, this.template, conversation);
    const wanted = this.options.maskHistory ? turns.slice(-1) : turns;
    if (wanted.length > 1) this.stats.splitRows++;
    for (const turn of wanted) {
      if (turn instanceof LowrankError) this.drop(turn.message);
      else this.push(turn.ids, turn.mask, row);
    }
    if (wanted.length === 0) this.drop("it has no assistant message");
  }

  private text(text: string, row: number): void {
    if (text === "") {
      this.drop(EMPTY_TEXT);
      return;
    }
    const ids = this.withEnd(this.tokenizer.encode(text));
    this.push(ids, new Uint8Array(ids.length).fill(1), row);
  }

  /** The completion's tokens are those behind the prompt's; the model's end token closes it. */
  private completion(prompt: string, completion: string, row: number): void {
    const before = this.tokenizer.encode(prompt);
    const whole = this.tokenizer.encode(prompt + completion);
    const joins = before.every((id, i) => whole[i] === id);
    // A token across the border would put the prompt's last letters among the targets: then each is encoded for itself.
    const ids = this.withEnd(joins ? whole : [...before, ...this.tokenizer.encode(completion, { addSpecialTokens: false })]);
    this.push(
      ids,
      ids.map((_, i) => (i < before.length ? 0 : 1)),
      row,
    );
  }

  private withEnd(ids: number[]): number[] {
    const { eosId } = this.tokenizer;
    return eosId === undefined || ids.at(-1) === eosId ? ids : [...ids, eosId];
  }

  private push(given: readonly number[], givenMask: ArrayLike<number>, row: number): void {
    const { bosId } = this.tokenizer;
    // A template that prints the begin token meets data that bring their own.
    const extra = bosId !== undefined && given[0] === bosId && given[1] === bosId ? 1 : 0;
    const all = Int32Array.from(given.slice(extra));
    const allLabels = this.options.trainOnPrompt ? all : labelsFromMasks(all, Array.from(givenMask).slice(extra));
    const inputIds = truncate(all, this.options.cutoffLen, "keep_start");
    const labels = truncate(allLabels, this.options.cutoffLen, "keep_start");
    const targets = countTargets(labels);
    const lostTargets = countTargets(allLabels) - targets;
    if (targets === 0) {
      this.drop(lostTargets > 0 ? CUT_AWAY : NO_TARGET);
      return;
    }
    const { stats } = this;
    if (inputIds.length < all.length) stats.truncated++;
    stats.examples++;
    stats.tokens += inputIds.length;
    stats.targetTokens += targets;
    stats.longest = Math.max(stats.longest, inputIds.length);
    this.examples.push({ inputIds, labels, row, fullLength: all.length, lostTargets });
  }

  private drop(reason: string): void {
    this.stats.dropped[reason] = (this.stats.dropped[reason] ?? 0) + 1;
  }
}

/** Keeps the last run of ones: the last message the assistant wrote. */
function lastRun(mask: Uint8Array): Uint8Array {
  const end = mask.lastIndexOf(1) + 1;
  let start = end;
  while (start > 0 && mask[start - 1] === 1) start--;
  return mask.map((_, i) => (i >= start && i < end ? 1 : 0));
}
