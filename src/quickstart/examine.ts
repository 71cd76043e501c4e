import type { QuestionAnswer } from "./adapters.js";

export interface ExamResult {
  readonly right: number;
  readonly total: number;
  /** The questions answered wrongly, with what was answered. */
  readonly misses: readonly { readonly question: string; readonly expected: string; readonly actual: string }[];
}

export interface ExamineOptions {
  /** Questions asked at once (default 60). */
  batchSize?: number;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: { done: number; total: number }) => void) | undefined;
}

/** Asks every question and counts the answers that match exactly, but for white space around them. */
export async function examine(
  rows: readonly QuestionAnswer[],
  answer: (questions: readonly string[]) => Promise<readonly string[]>,
  { batchSize = 60, signal, onProgress }: ExamineOptions = {},
): Promise<ExamResult> {
  const misses: { question: string; expected: string; actual: string }[] = [];
  for (let first = 0; first < rows.length; first += batchSize) {
    signal?.throwIfAborted();
    onProgress?.({ done: first, total: rows.length });
    const batch = rows.slice(first, first + batchSize);
    const answers = await answer(batch.map((row) => row.question));
    for (const [i, row] of batch.entries()) {
      const actual = answers[i]?.trim() ?? "";
      if (actual !== row.answer) misses.push({ question: row.question, expected: row.answer, actual });
    }
  }
  onProgress?.({ done: rows.length, total: rows.length });
  return { right: rows.length - misses.length, total: rows.length, misses };
}
