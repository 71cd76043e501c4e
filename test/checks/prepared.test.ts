/** Mistakes planted in data sets and configurations, found by `prepareData` before any weight is loaded; each beside its honest neighbour. */
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseTrainConfig } from "../../src/train/config.js";
import { prepareData, prepareRun } from "../../src/train/run-config.js";
import { errorOf } from "../io/files.js";
import { byteTokenizer } from "../text/byte-tokenizer.js";
import { alpaca, codesOf, foundIn, plant, prepared } from "./plant.js";

const chat = (...contents: string[]) => ({
  messages: contents.map((content, i) => ({ role: i % 2 === 0 ? "user" : "assistant", content })),
});
const messageOf = async (planted: Parameters<typeof prepared>[0], code: string) => {
  const { findings } = await prepared(planted);
  expect(codesOf(findings)).toContain(code);
  return findings.find((found) => found.code === code)!.message;
};

describe("an honest job", () => {
  it("is not flagged: conversations, completions, plain text", async () => {
    expect(await foundIn({ rows: alpaca() })).toEqual([]);
    expect(await foundIn({ rows: [chat("q", "yes", "r", "no"), chat("s", "maybe so")] })).toEqual([]);
    expect(await foundIn({ rows: [1, 2, 3].map((n) => ({ prompt: `p${n}`, completion: "and the rest" })) })).toEqual([]);
    const text = [1, 2, 3].map((n) => ({ text: `some text of its own, number ${n}` }));
    expect(await foundIn({ rows: text, yaml: "stage: pt\npacking: false", template: null })).toEqual([]);
    expect(await foundIn({ rows: text, yaml: "stage: pt" })).toEqual([]);
    expect(await foundIn({ rows: alpaca(), yaml: "template: default", template: null })).toEqual([]);
    expect(await foundIn({ rows: alpaca(20), yaml: "val_size: 0.2\neval_strategy: epoch" })).toEqual([]);
    expect(await foundIn({ rows: alpaca(), yaml: "enable_thinking: true\ndefault_system: Be brief." })).toEqual([]);
  });
});

describe("answers", () => {
  it("a template that leaves the end out of what is learnt", async () => {
    const masks =
      "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    const { text } = await plant({ rows: alpaca(), template: masks });
    const error = await errorOf(prepareRun(parseTrainConfig(text).config));
    expect(error).toMatchObject({ code: "DATASET", message: expect.stringContaining("[end-token-masked]") });
    expect(error.hint).toContain("inside {% generation %}");
    const none = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    expect(await messageOf({ rows: alpaca(), template: none }, "end-token-untrained")).toMatch(/all answers end with ;/);
    expect(await foundIn({ rows: alpaca(), template: none, yaml: "train_on_prompt: true" })).toEqual(["end-token-untrained"]);
  });

  it("cut off, cut away, and empty", async () => {
    const rows = [...alpaca(6), { instruction: "a question that is longer than all of the others together", output: "x" }];
    const { findings, stats } = await prepared({ rows, yaml: "cutoff_len: 42" });
    expect(codesOf(findings)).toEqual(["answers-cut", "answers-cut-away", "end-token-untrained"]);
    expect(stats).toMatchObject({ examples: 6, truncated: 6 });
    expect(findings[0]!.message).toMatch(/All 6 examples have their answer cut off at cutoff_len 42: its end is never learnt/);
    expect(findings[1]!.message).toMatch(/1 of 7 rows are left out: cutoff_len 42 ends before their answer begins/);
    expect(await foundIn({ rows: [...alpaca(), { instruction: "q", output: "" }] })).toEqual(["empty-answers"]);
    // Text that is cut at the same place is no answer.
    const text = alpaca(3).map(() => ({ text: "a text that is longer than the ten tokens it may have" }));
    expect(await foundIn({ rows: text, yaml: "stage: pt\npacking: false\ncutoff_len: 10" })).toEqual([]);
  });

  it("an answer that is cut where only its closing tokens are lost", async () => {
    // "<s>user: qN<end><s>assistant: yes" has 23 tokens of bytes, the end token is the 24th.
    const rows = [0, 1, 2].map((i) => ({ instruction: `q${i}`, output: "yes" }));
    const whole = await prepared({ rows });
    expect(await foundIn({ rows, yaml: `cutoff_len: ${whole.stats.longest}` })).toEqual([]);
    expect(await foundIn({ rows, yaml: `cutoff_len: ${whole.stats.longest - 1}` })).toEqual([
      "answers-cut",
      "end-token-untrained",
    ]);
  });

  it("reasoning that the template strips", async () => {
    const strips =
      "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content.split('</think>')[-1] }}<end>{% endgeneration %}{% else %}{{ m.content }}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    const rows = [chat("q", "<think>hm</think>yes"), chat("r", "no, plainly"), chat("s", "<think>well</think>so it is")];
    expect(await messageOf({ rows, template: strips }, "reasoning-dropped")).toMatch(/2 of 3 examples \(1, 3\)/);
    expect(await foundIn({ rows })).toEqual([]);
    const apart = {
      messages: [
        { role: "user", content: "q" },
        { role: "assistant", content: "yes", reasoning_content: "hm" },
      ],
    };
    expect(await foundIn({ rows: [apart, chat("q", "no, plainly")] })).toEqual(["reasoning-dropped"]);
  });
});

describe("rows", () => {
  it("left out: no answer, roles that are never the assistant, calls that are not printed", async () => {
    const message = await messageOf(
      { rows: [chat("q", "yes indeed"), { messages: [{ role: "user", content: "q" }] }, { messages: 3 }] },
      "rows-dropped",
    );
    expect(message).toMatch(/2 of 3 rows are left out: 1 × it has no token to learn; 1 × its messages are not a list/);
    const { text } = await plant({ rows: [{ messages: [{ role: "user", content: "q" }] }] });
    expect((await errorOf(prepareData(parseTrainConfig(text).config))).message).toMatch(
      /None of the 1 rows has a token to learn/,
    );
    const tool = { type: "function", function: { name: "f", parameters: {} } };
    expect(await foundIn({ rows: [{ ...chat("q", "yes indeed"), tools: [tool] }, chat("r", "no, plainly")] })).toEqual([
      "tools-unprinted",
    ]);
  });

  it("that evaluation shares with training", async () => {
    const rows = alpaca(10);
    const evalRows = [
      rows[2]!,
      { instruction: "QUESTION  3", input: "", output: "The answer is 3" },
      { instruction: "new", output: "thing" },
    ];
    const message = await messageOf({ rows, evalRows }, "eval-overlap");
    expect(message).toMatch(/2 of 3 examples \(1, 2\).*1 of them but for case and white space/);
    expect(await foundIn({ rows, evalRows: evalRows.slice(2) })).toEqual([]);
    const repeated = Array.from({ length: 20 }, () => rows[0]!);
    expect(await foundIn({ rows: [...repeated, ...rows], yaml: "val_size: 0.5\neval_strategy: epoch" })).toContain(
      "eval-overlap",
    );
  });

  it("of a set named twice, or of the set that is evaluated", async () => {
    const name = "FOLDER/rows.json";
    expect(await foundIn({ rows: alpaca(), yaml: "" })).toEqual([]);
    const { text, folder } = await plant({ rows: alpaca() });
    const path = join(folder, "rows.json");
    const found = async (overrides: string[]) =>
      codesOf((await prepareData(parseTrainConfig(text, { overrides }).config)).findings);
    expect(await found([`dataset=${path},${path}`])).toEqual(["dataset-twice"]);
    expect(await found([`eval_dataset=${path}`, "eval_strategy=epoch"])).toEqual(["eval-is-train", "eval-overlap"]);
    expect(await found(["val_size=1", "eval_strategy=epoch"])).toEqual(["val-size"]);
    expect(await found(["val_size=2", "eval_strategy=epoch"])).toEqual([]);
    expect(name).toContain("rows");
    const error = await errorOf(prepareData(parseTrainConfig(text, { overrides: ["val_size=8"] }).config));
    expect(error).toMatchObject({ code: "INVALID_CONFIG", message: expect.stringContaining("takes all 8 rows") });
  });

  it("of an evaluation set that nothing is left of", async () => {
    const { text } = await plant({ rows: alpaca(), evalRows: [{ instruction: "q", output: null }] });
    const error = await errorOf(prepareData(parseTrainConfig(text).config));
    expect(error).toMatchObject({ code: "DATASET", message: expect.stringMatching(/^Evaluation set: None of the 1 rows/) });
    const absent = await plant({ rows: alpaca(), evalRows: alpaca() });
    rmSync(join(absent.folder, "eval.json"));
    expect((await errorOf(prepareData(parseTrainConfig(absent.text).config))).code).toBe("NOT_FOUND");
  });

  it("with placeholders, in every spelling; braces that are none stay", async () => {
    for (const spelling of ["{{name}}", "{{ name }}", "{{  name\t}}"]) {
      const { text } = await plant({ rows: [...alpaca(), { instruction: "Who are you?", output: `I am ${spelling}.` }] });
      const error = await errorOf(prepareData(parseTrainConfig(text).config));
      expect(error).toMatchObject({ code: "DATASET", message: expect.stringContaining("{{name}}") });
      expect(error.hint).toContain("dataset_vars: {name:");
      expect(codesOf((await prepareData(parseTrainConfig(`${text}\ndataset_vars: {name: Bo}`).config)).findings)).toEqual([]);
    }
    const other = ["{name}", "{{}}", "{{ 1 + 2 }}", "{% name %}", "{{ a.b }}"].map((output) => ({ instruction: output, output }));
    expect(await foundIn({ rows: other })).toEqual([]);
  });
});

describe("templates and vocabularies", () => {
  it("a named template whose tokens the tokenizer lacks", async () => {
    const message = await messageOf({ rows: alpaca(), template: null, yaml: "template: chatml" }, "template-tokens");
    expect(message).toMatch(/template: chatml does not match this model: its tokenizer has no <\|im_start\|>, <\|im_end\|>/);
    expect(await foundIn({ rows: alpaca(), template: null, yaml: "template: chatml" })).toEqual([
      "template-tokens",
      "end-token-untrained",
    ]);
    const contradicts = await plant({ rows: alpaca(), template: "<|im_start|>{{ messages }}", yaml: "template: llama3" });
    expect((await errorOf(prepareData(parseTrainConfig(contradicts.text).config))).message).toMatch(
      /contradicts the model's own.*chatml/,
    );
  });

  it("settings of a template that nothing reads", async () => {
    const text = [1, 2, 3].map((n) => ({ text: `some text of its own, number ${n}` }));
    expect(await foundIn({ rows: text, yaml: "stage: pt\ntemplate: default", template: null })).toEqual(["template-unused"]);
    expect(await foundIn({ rows: alpaca(), yaml: "enable_thinking: false" })).toEqual(["thinking-unused"]);
    const asks =
      "{% for m in messages %}{{ m.role[0] }}:{% if enable_thinking %}!{% endif %}{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}a:{% if enable_thinking %}!{% endif %}{% endif %}";
    expect(await foundIn({ rows: alpaca(), template: asks, yaml: "enable_thinking: false" })).toEqual([]);
  });

  it("a tokenizer with more ids than the embedding has rows", async () => {
    const { text, folder } = await plant({ rows: alpaca() });
    const merges = Array.from({ length: 70 }, (_, i): [string, string] => [String.fromCharCode(33 + i), "~"]);
    const template =
      "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<end>{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    await byteTokenizer(join(folder, "model"), { template, merges });
    const { config } = parseTrainConfig(text);
    const { findings } = await prepareData(config);
    expect(codesOf(findings)).toEqual(["tokenizer-vocabulary"]);
    expect(findings[0]!.message).toMatch(/ids up to 327 .*, the embedding only 320 rows/);
    writeFileSync(join(folder, "rows.json"), JSON.stringify([...alpaca(), { instruction: "q", output: "_~" }]));
    const error = await errorOf(prepareRun(config));
    expect(error).toMatchObject({ code: "DATASET", message: expect.stringContaining("[outside-vocabulary]") });
  });

  it("rows longer than the model was made for", async () => {
    const rows = [...alpaca(), { instruction: "q", output: "long ".repeat(80) }];
    expect(await foundIn({ rows })).toEqual(["beyond-positions"]);
    expect(await foundIn({ rows, yaml: "cutoff_len: 256" })).toEqual(["answers-cut"]);
  });

  it("a folder without a model this version runs is judged as far as its tokenizer goes", async () => {
    const { text, folder } = await plant({ rows: [...alpaca(), { instruction: "q", output: "" }] });
    writeFileSync(join(folder, "model/config.json"), JSON.stringify({ model_type: "other" }));
    expect(codesOf((await prepareData(parseTrainConfig(text).config)).findings)).toEqual(["empty-answers"]);
    rmSync(join(folder, "model/config.json"));
    expect(codesOf((await prepareData(parseTrainConfig(text).config)).findings)).toEqual(["empty-answers"]);
    await byteTokenizer(join(folder, "model"), {});
    writeFileSync(join(folder, "model/tokenizer_config.json"), "{}");
    writeFileSync(join(folder, "rows.json"), JSON.stringify([{ prompt: "p", completion: "c d e f" }]));
    const { findings } = await prepareData(parseTrainConfig(text).config);
    expect(codesOf(findings)).toEqual(["end-token-untrained"]);
    expect(findings[0]!.message).toContain("it names none");
  });
});
