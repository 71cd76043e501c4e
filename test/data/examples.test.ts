import { existsSync } from "node:fs";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { IGNORE } from "../../src/data/collate.js";
import { buildExamples, type ExampleOptions } from "../../src/data/examples.js";
import { previewSegments, renderPreview } from "../../src/data/preview.js";
import { type DataRow, loadRows } from "../../src/data/rows.js";
import type { Tokenizer } from "../../src/text/tokenizer.js";
import { BOS, byteTokenizer, END } from "../text/byte-tokenizer.js";

const TEMPLATE =
  "{{ bos_token }}{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
let folder: string;
let tok: Tokenizer;
let bos: Tokenizer;
let bare: Tokenizer;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "examples-"));
  tok = await byteTokenizer(join(folder, "chat"), { template: TEMPLATE });
  bos = await byteTokenizer(join(folder, "bos"), { bos: true, merges: [["b", "c"]] });
  bare = await byteTokenizer(join(folder, "bare"));
});
afterAll(() => rm(folder, { recursive: true }));

const chat = (...texts: string[]): DataRow => ({
  kind: "chat",
  messages: texts.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content })),
  tools: null,
});
const build = (rows: DataRow[], options: Partial<ExampleOptions> = {}, tokenizer = tok) =>
  buildExamples(rows, tokenizer, { cutoffLen: 100, ...options });
const marked = async (rows: DataRow[], options: Partial<ExampleOptions> = {}, tokenizer = tok) =>
  (await build(rows, options, tokenizer)).examples.map((e) => renderPreview(previewSegments(tokenizer, e), false));

describe("examples", () => {
  it("learn the assistant's tokens only, the end token with them", async () => {
    expect(await marked([chat("q", "yes", "r", "no")])).toEqual(["<s>u:q<end>a:⟦yes<end>⟧u:r<end>a:⟦no<end>⟧"]);
    const { examples, stats } = await build([chat("q", "é")]);
    expect([...examples[0]!.inputIds]).toEqual([BOS, ...Buffer.from("u:q"), END, ...Buffer.from("a:é"), END]);
    expect([...examples[0]!.labels]).toEqual([...Array(7).fill(IGNORE), ...Buffer.from("é"), END]);
    expect(stats).toMatchObject({ rows: 1, examples: 1, tokens: 10, targetTokens: 3, truncated: 0, dropped: {} });
  });

  it("learn the last answer, or the prompt too, when asked to", async () => {
    expect(await marked([chat("q", "yes", "r", "no")], { maskHistory: true })).toEqual([
      "<s>u:q<end>a:yes<end>u:r<end>a:⟦no<end>⟧",
    ]);
    expect(await marked([chat("q", "y")], { trainOnPrompt: true })).toEqual(["<s>⟦u:q<end>a:y<end>⟧"]);
  });

  it("close a completion with the end token and keep to its border", async () => {
    expect(await marked([{ kind: "completion", prompt: "ab", completion: "cd" }], {}, bos)).toEqual(["<s>ab⟦cd<end>⟧"]);
    const { examples } = await build([{ kind: "completion", prompt: "ab", completion: "cd" }], {}, bos);
    // "bc" is one token where both stand in one text: the prompt's last letter must not become a target.
    expect([...examples[0]!.inputIds]).toEqual([BOS, 97, 98, 99, 100, END]);
  });

  it("learn plain text whole, with one begin token", async () => {
    expect(await marked([{ kind: "text", text: "abc" }], {}, bos)).toEqual(["<s>⟦abc<end>⟧"]);
    const { examples } = await build([{ kind: "text", text: "<s>abc<end>" }], {}, bos);
    expect([...examples[0]!.inputIds]).toEqual([BOS, 97, 258, END]);
  });

  it("count what is cut or left out, and why", async () => {
    const rows: DataRow[] = [
      chat("q", "long answer"),
      chat("a very long question", "x"),
      { kind: "broken", reason: "odd" },
      { kind: "text", text: "" },
    ];
    const { stats, examples } = await build(rows, { cutoffLen: 12 });
    expect(examples.map((e) => [e.row, e.inputIds.length])).toEqual([[0, 12]]);
    expect(stats).toMatchObject({
      truncated: 1,
      dropped: { "no token to learn is left within cutoff_len": 1, odd: 1, "its text is empty": 1 },
    });
  });

  it("make one example of each answer where the template allows no other way", async () => {
    const chatTemplate =
      "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %};{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    const { stats } = await build([chat("q", "yes", "r", "no")], { chatTemplate });
    expect(stats).toMatchObject({ splitRows: 1, examples: 2 });
    expect(await marked([chat("q", "yes", "r", "no")], { chatTemplate })).toEqual(["u:q;a:⟦yes;⟧", "u:q;a:;u:r;a:⟦no;⟧"]);
  });

  it("do not learn calls that the template leaves out", async () => {
    const call = { role: "assistant", content: "", tool_calls: [{ type: "function", function: { name: "f", arguments: {} } }] };
    const row: DataRow = { kind: "chat", messages: [{ role: "user", content: "q" }, call], tools: [{}] };
    const { stats } = await build([row, chat("q", "y")]);
    expect(stats).toMatchObject({
      examples: 1,
      unprintedTools: 1,
      dropped: { "it calls a tool, which the chat template does not print": 1 },
    });
  });

  it("refuse to start when nothing is left to learn, or there is no template", async () => {
    await expect(build([chat("a very long question", "x")], { cutoffLen: 5 })).rejects.toMatchObject({
      code: "DATASET",
      message: expect.stringContaining(
        "None of the 1 rows has a token to learn: 1 × no token to learn is left within cutoff_len",
      ),
    });
    await expect(build([chat("q", "a")], {}, bare)).rejects.toMatchObject({
      code: "TEMPLATE",
      message: "this model has no chat template: set template: chatml | llama3 | … or use stage: pt",
    });
    await expect(build([chat("q", "a")], { chatTemplate: "{{ raise_exception('no user') }}" })).rejects.toMatchObject({
      message: expect.stringContaining("no user"),
    });
  });
});

describe("rows of files", () => {
  const file = async (name: string, content: unknown) => {
    const path = join(folder, name);
    await writeFile(path, typeof content === "string" ? content : JSON.stringify(content));
    return path;
  };
  const load = async (name: string, content: unknown, vars?: Record<string, string>) =>
    loadRows({ dataset: await file(name, content), stage: "sft", ...(vars ? { datasetVars: vars } : {}) });
  const user = { role: "user", content: "q" };
  const answer = { role: "assistant", content: "a" };

  it("are told apart by their columns", async () => {
    const conversation = [{ kind: "chat", messages: [user, answer], tools: null }];
    expect(await load("text.txt", "one\r\ntwo\n")).toEqual([
      { kind: "text", text: "one" },
      { kind: "text", text: "two" },
    ]);
    expect(await load("m.json", [{ messages: [user, answer] }])).toEqual(conversation);
    expect(
      await load("c.json", [
        {
          conversations: [
            { from: "human", value: "q" },
            { from: "gpt", value: "a" },
          ],
        },
      ]),
    ).toEqual(conversation);
    expect(await load("a.jsonl", '{"instruction":"q","output":"a"}\n')).toEqual(conversation);
    expect(await load("a.csv", 'instruction,input,output\n"q",,a\n')).toEqual(conversation);
    expect(await load("p.json", [{ prompt: [user], completion: [answer] }])).toEqual(conversation);
    expect(await load("p2.json", [{ prompt: "q", completion: "a" }])).toEqual([
      { kind: "completion", prompt: "q", completion: "a" },
    ]);
  });

  it("keep tools and calls as chat templates expect them", async () => {
    const rows = await load("t.json", [
      {
        conversations: [
          { from: "human", value: "q" },
          { from: "function_call", value: '{"name": "f", "arguments": "{\\"x\\": 1}"}' },
          { from: "observation", value: "r" },
          { from: "gpt", value: "a" },
        ],
        tools: '[{"name": "f"}]',
        system: "s",
      },
    ]);
    const call = {
      role: "assistant",
      content: "",
      tool_calls: [{ type: "function", function: { name: "f", arguments: { x: 1 } } }],
    };
    const messages = [{ role: "system", content: "s" }, user, call, { role: "tool", content: "r" }, answer];
    expect(rows).toEqual([{ kind: "chat", messages, tools: [{ type: "function", function: { name: "f" } }] }]);
  });

  it("have their placeholders filled, or are refused with their names", async () => {
    const content = [{ instruction: "who?", output: "{{name}} by {{ author }}" }];
    await expect(load("id.json", content, { name: "Lo" })).rejects.toMatchObject({
      code: "DATASET",
      details: { placeholders: ["author"] },
    });
    const [row] = await load("id.json", content, { name: "Lo", author: "{{author}}" });
    expect(row).toMatchObject({ messages: [{}, { content: "Lo by {{author}}" }] });
  });

  it.each([
    ["x.json", "[1]", "row 1 must be a JSON object"],
    ["x.json", '[{"a":', "not valid JSON"],
    ["x.jsonl", '{"text":"a"}\n{"text"', "line 2 is not valid JSON"],
    ["x.csv", 'a,b\n1,"2', "Quote Not Closed"],
    ["x.json", [{ question: "q" }], "the columns question, which is none of the known shapes"],
    ["x.json", [], "has no rows"],
    ["x.json", [{ chosen: "a", rejected: "b" }], "pairs of chosen and rejected"],
    ["x.parquet", "PAR1", "cannot be read yet"],
  ])("%s of %j is refused: %s", async (name, content, message) => {
    await expect(load(name, content)).rejects.toMatchObject({ name: "LowrankError", message: expect.stringContaining(message) });
  });

  it("come from registries and from several data sets in turn", async () => {
    const dir = join(folder, "registry");
    await mkdir(dir, { recursive: true });
    await writeFile(
      join(dir, "d.json"),
      JSON.stringify([1, 2, 3].map((n) => ({ instruction: `q${n}`, input: "", output: "a" }))),
    );
    await writeFile(join(dir, "t.txt"), "text");
    await writeFile(
      join(dir, "dataset_info.json"),
      JSON.stringify({ d: { file_name: "d.json" }, some: { file_name: "d.json", num_samples: 5 } }),
    );
    const options = { datasetDir: dir, stage: "sft" as const };
    expect(await loadRows({ ...options, dataset: "d, t.txt", maxSamples: 2 })).toHaveLength(3);
    expect(await loadRows({ ...options, dataset: "some" })).toHaveLength(5);
    expect(await loadRows({ ...options, dataset: "d", stage: "pt" })).toEqual(
      ["q1", "q2", "q3"].map((text) => ({ kind: "text", text })),
    );
    await expect(loadRows({ ...options, dataset: "dd" })).rejects.toMatchObject({ hint: "It defines: d, some." });
    await expect(loadRows({ dataset: "d", datasetDir: folder, stage: "sft" })).rejects.toMatchObject({ code: "NOT_FOUND" });
    await expect(loadRows({ dataset: "gone.json", datasetDir: folder, stage: "sft" })).rejects.toMatchObject({
      code: "NOT_FOUND",
    });
  });
});

const shared = "../shared";
describe.runIf(existsSync(`${shared}/models/smollm2-135m-instruct-nf4`))("SmolLM2 on Alpaca rows", () => {
  it("learns every answer of the demo file", async () => {
    const { AutoTokenizer } = await import("../../src/text/tokenizer.js");
    const real = await AutoTokenizer.fromPretrained(`${shared}/models/smollm2-135m-instruct-nf4`);
    const rows = await loadRows({ dataset: "alpaca_en_demo", datasetDir: `${shared}/data`, stage: "sft", maxSamples: 50 });
    const { examples, stats } = await buildExamples(rows, real, { cutoffLen: 2048 });
    expect(stats).toMatchObject({ rows: 50, examples: 50, truncated: 0, dropped: {} });
    for (const [i, example] of examples.entries()) {
      const learnt = previewSegments(real, example).filter((s) => s.trained);
      const row = rows[i] as DataRow & { kind: "chat" };
      expect(learnt.map((s) => s.text)).toEqual([`${row.messages.at(-1)!.content}<|im_end|>\n`]);
    }
  });
});
