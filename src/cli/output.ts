import { styleText } from "node:util";
import { escapeControls } from "../data/escape.js";

/** Human text goes to stderr, results to stdout. */
export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

/** What a file holds without effect. */
export function sayNote(note: string): void {
  say(`note: ${escapeControls(note)}`);
}

/** One result line on stdout. */
export function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

/** One NDJSON line on stdout. */
export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}

type Style = Parameters<typeof styleText>[0];

/** Colours only where stderr is a terminal that wants them. */
export function paint(style: Style, text: string): string {
  return process.stderr.isTTY && process.env.NO_COLOR === undefined ? styleText(style, text) : text;
}

/** `1h 02m`, `3m 05s`, `12s`. */
export function formatDuration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s >= 3600) return `${Math.floor(s / 3600)}h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")}m`;
  if (s >= 60) return `${Math.floor(s / 60)}m ${String(s % 60).padStart(2, "0")}s`;
  return `${s}s`;
}

/**
 * A line that rewrites itself on a terminal. Elsewhere (logs, CI) a line is printed at most every ten seconds and at the end,
 * so that long work shows life without flooding.
 */
export class ProgressBar {
  #lastPrinted = 0;
  #width = 0;
  readonly #title: string;

  constructor(title: string) {
    this.#title = title;
  }

  /** @param done share in [0, 1] */
  update(done: number, note: string): void {
    const share = Math.min(1, Math.max(0, done));
    const filled = Math.round(share * 24);
    const line = `${this.#title} [${"█".repeat(filled)}${"·".repeat(24 - filled)}] ${String(Math.floor(share * 100)).padStart(3)} % ${note}`;
    if (process.stderr.isTTY) {
      process.stderr.write(`\r${line.padEnd(this.#width)}`);
      this.#width = line.length;
      return;
    }
    const now = Date.now();
    if (now - this.#lastPrinted < 10_000) return;
    this.#lastPrinted = now;
    say(line);
  }

  /** Ends the line with a last text. */
  finish(note: string): void {
    const line = `${this.#title} ${note}`;
    if (process.stderr.isTTY) process.stderr.write(`\r${line.padEnd(this.#width)}\n`);
    else say(line);
    this.#width = 0;
  }
}
