/** Mutations of YAML, JSONL, CSV and plain text: by lines, and by what is special in each. */
import { mutateBytes } from "./bytes.js";
import { mutateJson, print, toNode } from "./json.js";
import type { Random } from "./random.js";

const YAML = [
  "a: &a [x, x, x]",
  "b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c, *c]",
  "<<: {lora_rank: 4}",
  "<<: *nowhere",
  "self: &self [*self]",
  "__proto__: {polluted: 1}",
  "constructor: 1",
  "lora_rank: 8\nlora_rank: 9",
  "\tlora_rank: 8",
  "--- \nlora_rank: 8",
  "x: !!js/function 'function () {}'",
  "x: !!python/object/apply:os.system ['true']",
  "x: !!binary aGVsbG8=",
  "x: !!set {a, b}",
  "? [complex, key] : value",
  "%TAG ! tag:x,2000:",
  "learning_rate: .nan",
  "learning_rate: .inf",
  "seed: 0x10",
  "seed: 9007199254740993",
  "max_steps: 9223372036854775808",
  "num_train_epochs: 1e999",
  "dataset: ../outside/secret.json",
  "lora_target: '(a+)+$'",
  "auto_map: {x: y}",
  `deep: ${"[".repeat(2000)}${"]".repeat(2000)}`,
  `deep: ${"{a: ".repeat(500)}${"}".repeat(500)}`,
  `long: ${"x".repeat(40_000)}`,
];
const CELLS = [
  '"',
  '""',
  '"open',
  "a,b",
  ",,,,,,,,",
  "\n",
  '"two\nlines"',
  "__proto__",
  "=1+1",
  "\0",
  "\ufeff",
  '"a"b',
  "é",
  "'",
];

export function mutateLines(name: string, bytes: Buffer, random: Random): Buffer {
  const lines = bytes.toString("latin1").split("\n");
  const at = random.int(lines.length);
  const line = lines[at]!;
  switch (random.int(9)) {
    case 0:
      lines.splice(at, 1);
      break;
    case 1:
      lines.splice(random.int(lines.length), 0, line);
      break;
    case 2:
      lines[at] = mutateBytes(Buffer.from(line, "latin1"), random).toString("latin1");
      break;
    case 3:
      lines[at] = `${line}${random.pick(["\r", " ", "\t", ",", "}", "#"])}`;
      break;
    case 4:
      for (let i = 1 << random.int(10); i > 0; i--) lines.push(line);
      break;
    case 5:
      lines[at] = line.repeat(1 << random.int(8));
      break;
    default:
      lines[at] = special(name, line, random);
  }
  return Buffer.from(lines.join("\n"), "latin1");
}

function special(name: string, line: string, random: Random): string {
  if (name.endsWith(".yaml")) {
    const [key = "", ...rest] = line.split(": ");
    const value = Buffer.from(print(mutateJson(toNode([rest.join(": ")]), random)))
      .toString("latin1")
      .slice(1, -1);
    return random.chance(0.5) ? random.pick(YAML) : `${key}: ${value}`;
  }
  if (name.endsWith(".jsonl")) {
    try {
      return Buffer.from(print(mutateJson(toNode(JSON.parse(Buffer.from(line, "latin1").toString())), random))).toString(
        "latin1",
      );
    } catch {
      return line.slice(random.int(line.length + 1));
    }
  }
  const cells = line.split(",");
  cells[random.int(cells.length)] = random.pick(CELLS);
  return cells.join(",");
}
