import { existsSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { renderChatTemplate } from "../../src/text/chat-template.js";
import { chatTemplateFor } from "../../src/text/templates.js";
import { AutoTokenizer, type Tokenizer } from "../../src/text/tokenizer.js";
import { byteTokenizer } from "./byte-tokenizer.js";

const golden = "../shared/golden/data";

describe("templates by name", () => {
  let folder: string;
  let bare: Tokenizer;
  let chatml: Tokenizer;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "templates-"));
    bare = await byteTokenizer(join(folder, "bare"));
    chatml = await byteTokenizer(join(folder, "chatml"), { template: "own <|im_start|>" });
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("give way to the model's own template, and may not contradict it", () => {
    expect(chatTemplateFor(chatml, null)).toBe("own <|im_start|>");
    expect(chatTemplateFor(chatml, "qwen")).toBe("own <|im_start|>");
    expect(chatTemplateFor(bare, null)).toBeUndefined();
    expect(() => chatTemplateFor(chatml, "llama3")).toThrow(
      "template: llama3 contradicts the model's own chat template, which is chatml",
    );
    expect(() => chatTemplateFor(bare, "lama3")).toThrow("template: lama3 is not known");
  });

  it("granite3 prints what Granite's own template does, gemma3 what gemma does", async () => {
    const messages = ["Be brief.", "hi", "yes", "and?"].map((content, i) => ({
      role: ["system", "user", "assistant", "user"][i]!,
      content,
    }));
    // Granite 3's chat_template, for roles of text.
    const own =
      "{% for m in messages %}{{ '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + '<|end_of_text|>\n' }}{% endfor %}" +
      "{% if add_generation_prompt %}{{ '<|start_of_role|>assistant<|end_of_role|>' }}{% endif %}";
    for (const addGenerationPrompt of [false, true]) {
      const print = (template: string) => renderChatTemplate(template, messages, { addGenerationPrompt });
      expect(await print(chatTemplateFor(bare, "granite3")!)).toBe(await print(own));
    }
    expect(chatTemplateFor(bare, "gemma3")).toBe(chatTemplateFor(bare, "gemma"));
    expect(() => chatTemplateFor(chatml, "granite3")).toThrow("which is chatml");
  });

  it.runIf(existsSync(golden)).each(["chatml", "llama3", "gemma", "mistral", "phi", "alpaca", "default"])(
    "%s prints what LLaMA-Factory tokenises",
    async (name) => {
      const dir = `${golden}/supervised_${name}`;
      const spec = JSON.parse(readFileSync(`${dir}/case.json`, "utf8"));
      const rows = JSON.parse(readFileSync(join(dir, spec.rows), "utf8")).supervised;
      const tok = await AutoTokenizer.fromPretrained(join(dir, spec.tokenizer));
      const variables = { bos_token: spec.tokenizerAfter.bosToken, eos_token: spec.tokenizerAfter.eosToken };
      const template = chatTemplateFor(bare, name)!;
      let compared = 0;
      for (const r of spec.runs[0].rows) {
        const row = rows[r.row];
        if (
          !r.input_ids ||
          row._tools ||
          !row._prompt.every((m: { role: string }) => m.role === "user" || m.role === "assistant")
        )
          continue;
        if (row._response[0]?.role !== "assistant") continue;
        const system = row._system || spec.template.defaultSystem;
        const messages = [...(system ? [{ role: "system", content: system }] : []), ...row._prompt, ...row._response];
        const text = await renderChatTemplate(template, messages, { variables });
        expect(text).toBe(tok.decode(r.input_ids));
        compared++;
      }
      expect(compared).toBeGreaterThan(3);
    },
  );
});
