import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { renderChatBatch } from "../../../src/text/chat-template.js";
import type { Measured } from "./measure.js";

/** The promise: time of the rendering thread on the processor, and growth of the process. */
const MILLISECONDS = 100;
const MEBIBYTES = 32;

const measure = (...args: string[]): Measured[] =>
  JSON.parse(
    execFileSync(process.execPath, ["--import", "tsx", "test/text/hostile/measure.ts", "--json", ...args], {
      encoding: "utf8",
      timeout: 280_000,
    }),
  );

// Reads /proc, and renders with the built library as users do.
describe.runIf(existsSync("/proc/self/clear_refs") && existsSync("dist/text/chat-template.js"))("hostile templates", () => {
  it("stay below 100 ms and 32 MiB, and the next rendering works", () => {
    const all = measure("--table", "--count", "100", "--seed", "7");
    expect(all.length).toBeGreaterThan(190);
    expect(all.filter((m) => m.milliseconds > MILLISECONDS || m.mebibytes > MEBIBYTES)).toEqual([]);
    // The table is there to be refused; a few of its templates only look dangerous.
    const rendered = all.filter((m) => m.outcome === "rendered" && !m.name.startsWith("generated"));
    expect(rendered.length).toBeLessThanOrEqual(6);
  }, 300_000);
});

const golden = "../shared/golden/text";
describe.runIf(existsSync(golden))("long honest conversations", () => {
  it.each(["chat_qwen3", "chat_llama3_1", "chat_gemma3", "chat_phi3"])(
    "%s renders 1 000 messages and 100 tools",
    async (name) => {
      const template = readFileSync(`${golden}/${name}/template.jinja`, "utf8");
      const messages = Array.from({ length: 1000 }, (_, i) => ({
        role: i % 2 ? "assistant" : "user",
        content: `message ${i} `.padEnd(2000, "text with words "),
      }));
      const tools = Array.from({ length: 100 }, (_, i) => ({
        type: "function",
        function: {
          name: `tool_${i}`,
          description: "looks something up",
          parameters: {
            type: "object",
            properties: { a: { type: "string" }, b: { type: "number", enum: [1, 2] } },
            required: ["a"],
          },
        },
      }));
      const variables = { bos_token: "<s>", eos_token: "</s>", date_string: "26 Jul 2024" };
      const [r] = await renderChatBatch(template, [{ messages, tools, variables }]);
      expect(r).toMatchObject({ text: expect.stringContaining("message 999 ") });
    },
  );
});
