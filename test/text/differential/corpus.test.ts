import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseJson } from "../../../src/data/json.js";
import { LowrankError } from "../../../src/errors.js";
import { renderChatBatch } from "../../../src/text/chat-template.js";

const folder = new URL("cases/", import.meta.url);

// Made by jinja_programs.py and conversations.py with Python 3.11, jinja2 3.1.6 and transformers 5.23.0; see their heads.
describe.each(readdirSync(folder).filter((f) => f.endsWith(".jsonl")))("%s", (file) => {
  it("renders as in Python, or fails as there", async () => {
    const lines = readFileSync(new URL(file, folder), "utf8").split("\n").filter(Boolean);
    expect(lines.length).toBeGreaterThan(50);
    for (const line of lines) {
      // biome-ignore lint/suspicious/noExplicitAny: cases are data
      const c = parseJson(line) as any;
      const { template, messages, tools, documents, addGenerationPrompt, continueFinalMessage, variables } = c;
      const [r] = await renderChatBatch(template, [
        { messages, tools, documents, addGenerationPrompt, continueFinalMessage, variables, now: new Date(2026, 2, 5, 14, 7, 9) },
      ]);
      const got = r instanceof LowrankError ? "an error" : r!.text;
      expect(got, line).toBe(c.error ? "an error" : c.expected);
    }
  });
});
