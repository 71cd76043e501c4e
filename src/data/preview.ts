import type { Tokenizer } from "../text/tokenizer.js";
import { type Example, IGNORE } from "./collate.js";
import { escapeControls } from "./escape.js";

/** A stretch of an example's text that is learnt, or is not. */
export interface PreviewSegment {
  text: string;
  trained: boolean;
}

/** The text of an example in stretches of learnt and unlearnt tokens. A first token is never learnt: nothing predicts it. */
export function previewSegments(tokenizer: Tokenizer, example: Example): PreviewSegment[] {
  const segments: PreviewSegment[] = [];
  const { inputIds, labels } = example;
  const isTrained = (i: number) => i > 0 && labels[i] !== IGNORE;
  let start = 0;
  for (let i = 1; i <= inputIds.length; i++) {
    if (i < inputIds.length && isTrained(i) === isTrained(start)) continue;
    segments.push({ text: tokenizer.decode(Array.from(inputIds).slice(start, i)), trained: isTrained(start) });
    start = i;
  }
  return segments;
}

/** One text with the learnt stretches marked: in colour, or between ⟦ and ⟧ where there is none. Control codes of the data are escaped. */
export function renderPreview(segments: readonly PreviewSegment[], color: boolean): string {
  const [open, close] = color ? ["\u001b[32m", "\u001b[39m"] : ["⟦", "⟧"];
  return segments.map(({ text, trained }) => (trained ? open + escapeControls(text) + close : escapeControls(text))).join("");
}
