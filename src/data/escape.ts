// Control codes but for tab and line end, lone surrogates, marks that turn the direction of text or break lines.
const UNSAFE = /(?![\t\n])\p{Cc}|\p{Cs}|[\u061c\u200e\u200f\u202a-\u202e\u2028\u2029\u2066-\u2069]/gu;

/** Text from data, safe to print: what could drive or fool a terminal stands as `\u{…}`. */
export function escapeControls(text: string): string {
  return text.replace(UNSAFE, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
}
