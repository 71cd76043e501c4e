// Writes the templates of src/text/templates.ts as files, for conversations.py: node --import tsx own_templates.ts FOLDER
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { chatTemplateFor, TEMPLATE_NAMES } from "../../../src/text/templates.js";
import type { Tokenizer } from "../../../src/text/tokenizer.js";

const folder = process.argv[2]!;
mkdirSync(folder, { recursive: true });
for (const name of TEMPLATE_NAMES) {
  const template = chatTemplateFor({ chatTemplate: undefined } as Tokenizer, name)!;
  writeFileSync(join(folder, `${name}.jinja`), template);
}
