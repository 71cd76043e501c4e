import type { QuestionAnswer } from "./adapters.js";

export interface ExamResult {
  readonly right: number;
  readonly total: number;
  /** The questions answered wrongly, with what was answered. */
  readonly misses: readonly { readonly question: string; readonly expected: string; readonly actual: string }[];
}

/** Asks every question and counts the answers that match exactly, but for white space around them. */
export async function examine(
  rows: readonly QuestionAnswer[],
  answer: (question: string) => Promise<string>,
  signal?: AbortSignal,
): Promise<ExamResult> {
  const misses: { question: string; expected: string; actual: string }[] = [];
  for (const row of rows) {
    signal?.throwIfAborted();
    const actual = (await answer(row.question)).trim();
    if (actual !== row.answer) misses.push({ question: row.question, expected: row.answer, actual });
  }
  return { right: rows.length - misses.length, total: rows.length, misses };
}
