// Renders the cases of a JSONL file (see jinja_programs.py, conversations.py) and says where Python's result differs:
//   node --import tsx test/text/differential/compare.ts cases.jsonl
import { readFileSync } from "node:fs";
import { parseJson } from "../../../src/data/json.js";
import { LowrankError } from "../../../src/errors.js";
import { type Conversation, renderChatBatch } from "../../../src/text/chat-template.js";

// biome-ignore lint/suspicious/noExplicitAny: cases are data
type Case = any;
const files = process.argv.slice(2);
const counts = { equal: 0, "both refuse": 0, "refused here": 0, "rendered where Python fails": 0, different: 0 };
const reasons = new Map<string, number>();
const shown = Number(process.env.SHOW ?? 15);
for (const file of files) {
  for (const line of readFileSync(file, "utf8").split("\n")) {
    if (line === "") continue;
    const c = parseJson(line) as Case;
    const conversation: Conversation = {
      messages: c.messages,
      tools: c.tools ?? null,
      documents: c.documents ?? null,
      addGenerationPrompt: c.addGenerationPrompt ?? false,
      continueFinalMessage: c.continueFinalMessage ?? false,
      variables: c.variables,
      now: new Date(2026, 2, 5, 14, 7, 9),
      marks: c.regions !== undefined,
    };
    const [result] = await renderChatBatch(c.template, [conversation]);
    const tell = (kind: keyof typeof counts, detail: string) => {
      counts[kind]++;
      if (kind !== "refused here" && counts[kind] <= shown)
        console.log(
          `--- ${kind}\n${c.template}\n${JSON.stringify(c.variables ?? {}, (_, v) => (typeof v === "bigint" ? String(v) : v)).slice(0, 600)}\n${detail}`,
        );
    };
    if (result instanceof LowrankError) {
      const message = String(result.details.message);
      if (!c.error) {
        tell("refused here", message);
        const reason = message.replace(/"[^"]*"|, line \d+|\d+/g, "…");
        reasons.set(reason, (reasons.get(reason) ?? 0) + 1);
      } else if (c.error.raised && result.details.raisedBy === "template" && c.error.message !== message)
        tell("different", `${message}\n${c.error.message}`);
      else counts["both refuse"]++;
    } else if (c.error) {
      if (c.error.type !== "Slow")
        tell("rendered where Python fails", `${JSON.stringify(result!.text)}\n${c.error.type}: ${c.error.message}`);
    } else if (result!.text !== c.expected || (c.regions && JSON.stringify(c.regions) !== JSON.stringify(result!.regions)))
      tell("different", `${JSON.stringify(result)}\n${JSON.stringify(c.expected)} ${JSON.stringify(c.regions)}`);
    else counts.equal++;
  }
}
for (const [reason, n] of [...reasons].sort((a, b) => b[1] - a[1]).slice(0, 40)) console.log(String(n).padStart(6), reason);
console.log(counts);
process.exitCode = counts.different + counts["rendered where Python fails"] > 0 ? 1 : 0;
