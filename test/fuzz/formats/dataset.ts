import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { buildExamples } from "../../../src/data/examples.js";
import { loadRows } from "../../../src/data/rows.js";
import { LowrankError } from "../../../src/errors.js";
import { AutoTokenizer } from "../../../src/text/tokenizer.js";
import { filesOf } from "../files.js";
import type { Format } from "../format.js";
import { tokenizerFiles } from "../tiny.js";

const base = mkdtempSync(join(tmpdir(), "lowrank-fuzz-tokenizer-"));
for (const [name, content] of filesOf(tokenizerFiles("bytelevel"))) writeFileSync(join(base, name), content);
const tokenizer = await AutoTokenizer.fromPretrained(base);
rmSync(base, { recursive: true });

const alpaca = [1, 2, 3].map((i) => ({ instruction: `q${i}`, input: i % 2 ? "" : "in", output: `a${i}`, history: [["x", "y"]] }));
const tools = [{ name: "f", description: "d", parameters: { type: "object", properties: {} } }];
const sharegpt = [
  {
    conversations: [
      { from: "human", value: "hi" },
      { from: "gpt", value: "ho" },
    ],
    system: "s",
    tools: JSON.stringify(tools),
  },
  {
    conversations: [
      { from: "human", value: "1" },
      { from: "function_call", value: '{"name":"f","arguments":{"x":1.0}}' },
    ],
  },
];
const messages = [
  {
    messages: [
      { role: "user", content: "hi" },
      { role: "assistant", content: "ho" },
    ],
    tools,
  },
];
const info = {
  a: {
    file_name: "a.json",
    num_samples: 2,
    columns: { prompt: "instruction", query: "input", response: "output", history: "history" },
  },
  s: { file_name: "s.json", formatting: "sharegpt", columns: { messages: "conversations", system: "system", tools: "tools" } },
};
const jsonl = (rows: unknown[]) => rows.map((row) => `${JSON.stringify(row)}\n`).join("");
const template =
  "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}\n{% endfor %}{# tools #}";

const LOADS: [dataset: string, stage: "sft" | "pt"][] = [
  ["a", "sft"],
  ["s", "sft"],
  ["m.jsonl", "sft"],
  ["c.csv", "sft"],
  ["t.txt", "pt"],
];

export const format: Format = {
  name: "dataset",
  seeds: [
    filesOf({
      "dataset_info.json": info,
      "a.json": alpaca,
      "s.json": sharegpt,
      "m.jsonl": jsonl(messages),
      "c.csv": 'prompt,completion\n"What, then?","A ""quoted"" answer"\nTwo,2\n',
      "t.txt": "A line.\nAnother one.\r\n\nThe end",
    }),
  ],
  targets: ["dataset_info.json", "a.json", "s.json", "m.jsonl", "c.csv", "t.txt"],
  async open(folder) {
    let refused: unknown;
    for (const [dataset, stage] of LOADS) {
      try {
        const file = dataset.includes(".") ? join(folder, dataset) : dataset;
        const rows = await loadRows({ dataset: file, datasetDir: folder, stage, maxSamples: 20 });
        const { stats, examples } = await buildExamples(rows, tokenizer, { chatTemplate: template, cutoffLen: 64 });
        if (stats.examples !== examples.length || stats.rows !== rows.length) throw new Error(JSON.stringify(stats));
      } catch (error) {
        if (!(error instanceof LowrankError)) throw error;
        refused = error;
      }
    }
    if (refused !== undefined) throw refused;
  },
};
