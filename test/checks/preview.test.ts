/** `data preview` and `train --dry-run`: what is shown before a minute is spent, and honest data are not flagged. */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { escapeControls } from "../../src/data/escape.js";
import { lengthBins } from "../../src/data/lengths.js";
import { parseTrainConfig } from "../../src/train/config.js";
import { prepareData } from "../../src/train/run-config.js";
import { buildOnce, jsonLines, lowrank, makeModel } from "../cli/run.js";
import { tempFolder } from "../io/files.js";
import { alpaca, codesOf, plant } from "./plant.js";

beforeAll(buildOnce, 120_000);

describe("data preview", () => {
  it("shows counts, lengths, several rows, what is cut, and findings", async () => {
    const rows = [
      ...alpaca(9),
      { instruction: "q", output: "a long answer that is cut somewhere" },
      { instruction: "q", output: "" },
    ];
    const { config } = await plant({ rows, yaml: "cutoff_len: 48\nval_size: 1" });
    const { stdout, code } = await lowrank(["data", "preview", config, "--rows", "2"]);
    expect(code).toBe(0);
    expect(stdout).toMatch(/10 rows, \d+ examples, 1 more for evaluation/);
    expect(stdout).toMatch(/of them learnt \(\d+\.\d %\); the longest example has 48/);
    expect(stdout).toMatch(/1 examples were cut off at cutoff_len, 1 of them in an answer/);
    expect(stdout).toMatch(/tokens of an example, before it is cut:\n(\s*\d+–\d+ █* ?\d+( \(cut\))?\n)+/);
    for (const name of ["answers-cut", "val-size", "eval-unused"]) expect(stdout).toContain(`[${name}]`);
    expect(stdout).toMatch(
      /\nexample 1:\n<s>user: .*\n\nexample 2:\n.*\n\nexample \d+ \(the longest\):\n.*⟦a long answer[^⟧]*⟧\n/s,
    );
    const [json] = jsonLines((await lowrank(["data", "preview", config, "--json"])).stdout);
    expect(json).toMatchObject({ rows: 10, longest: 48, truncated: 1, answers_cut: 1, repeated: 0, eval_examples: 1 });
    expect((json!.lengths as { count: number }[]).reduce((n, { count }) => n + count, 0)).toBe(json!.examples);
    expect(json!.target_share).toBeCloseTo((json!.target_tokens as number) / (json!.tokens as number));
    expect(codesOf(json!.findings as { code: string }[])).toEqual(expect.arrayContaining(["answers-cut", "val-size"]));
    expect((json!.previews as { text: string }[])[0]!.text).toBe(json!.preview);
  });

  it("works for bare data sets and plain text, without words about settings of a run", async () => {
    const folder = tempFolder();
    const model = await makeModel(join(folder, "model"));
    writeFileSync(join(folder, "text.txt"), "one line\nanother line\n");
    const text = await lowrank(["data", "preview", join(folder, "text.txt"), "--model", model, "--stage", "pt"]);
    expect(text).toMatchObject({ code: 0, stdout: expect.stringContaining("example 1:") });
    expect(text.stdout).not.toMatch(/\[/);
    writeFileSync(join(folder, "rows.json"), JSON.stringify([{ instruction: "q", output: "a" }]));
    const rows = await lowrank(["data", "preview", join(folder, "rows.json"), "--model", model, "--row", "1"]);
    expect(rows).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/\nexample 1:\n<s>user: q<end><s>assistant: ⟦a<end>⟧\n$/),
    });
    expect(rows.stdout).not.toMatch(/rank-above|one-step/);
    const none = await lowrank(["data", "preview", join(folder, "rows.json"), "--model", model, "--row", "2"]);
    expect(none).toMatchObject({ code: 2, stderr: expect.stringContaining("--row 2: there are 1 examples") });
  });

  it("prints no control code of the data", async () => {
    const evil = "\u001b]0;owned\u0007\u001b[2J\u009b31m\r\u202ebackwards\u2066 x\u0000\u007f";
    const { config } = await plant({ rows: [...alpaca(5), { instruction: evil, output: evil }] });
    for (const args of [
      ["data", "preview", config, "--row", "6"],
      ["train", config, "--dry-run"],
    ]) {
      const { stdout, stderr, code } = await lowrank(args);
      expect(code).toBe(0);
      expect(stdout + stderr).not.toMatch(/(?![\n\t])\p{Cc}|[\u202e\u2066]/u);
      expect(stdout).toContain("\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{9b}31m\\u{d}\\u{202e}backwards");
    }
    const raises = "{% for m in messages %}{{ raise_exception('no ' ~ m.content) }}{% endfor %}";
    const refused = await plant({ rows: [{ instruction: evil, output: "x" }], template: raises });
    const { stderr, code } = await lowrank(["data", "preview", refused.config]);
    expect(code).toBe(1);
    expect(stderr).not.toMatch(/(?![\n\t])\p{Cc}|[\u202e\u2066]/u);
  });

  it("escapes what could drive a terminal and nothing else", () => {
    expect(escapeControls("plain, é 中 😀\tand\nlines")).toBe("plain, é 中 😀\tand\nlines");
    expect(escapeControls("\ud800 \u2028")).toBe("\\u{d800} \\u{2028}");
  });

  it("fails, once all is shown, where training would refuse; train refuses before it loads anything", async () => {
    const masks =
      "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
    const { config, folder } = await plant({ rows: alpaca(), template: masks });
    writeFileSync(join(folder, "model/model.safetensors"), "not weights");
    for (const args of [
      ["data", "preview", config],
      ["train", config, "--dry-run"],
    ]) {
      const shown = await lowrank(args);
      expect(shown).toMatchObject({ code: 1, stderr: expect.stringContaining("end-token-masked") });
      expect(shown.stdout).toMatch(/error: All 8 examples mask the end token.*\[end-token-masked\]/);
      expect(shown.stdout).toContain("example 1:");
    }
    const refused = await lowrank(["train", config]);
    expect(refused).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("To train all the same: --allow end-token-masked"),
    });
    expect((await lowrank(["train", config, "--dry-run", "--allow", "end-token-masked"])).code).toBe(0);
    expect((await lowrank(["train", config, "--allow", "end-token-masked"])).stderr).toMatch(/model\.safetensors/);
  });

  it("train shows warnings with their remedy, and --json gives them as events", async () => {
    const { config } = await plant({ rows: alpaca(), yaml: "val_size: 1\nlearning_rate: 0" });
    const { stdout, stderr, code } = await lowrank(["train", config, "--json"]);
    expect(code).toBe(0);
    const warnings = jsonLines(stdout).filter(({ type }) => type === "warning");
    expect(codesOf(warnings as never)).toEqual(["val-size", "learning-rate-zero", "eval-unused", "untrained-adapter"]);
    expect(stderr).toMatch(/warning: The learning rate is 0: nothing changes \[learning-rate-zero\]\n {2}→ Set learning_rate/);
    expect(jsonLines(stdout).at(-1)).toMatchObject({ result: { warnings } });
  });

  it("a reader that stops early does not make it fail", async () => {
    const { config } = await plant({ rows: alpaca(400), yaml: "cutoff_len: 200" });
    const { stderr } = await lowrank(["data", "preview", config, "--rows", "400"], {
      wrapper: ["sh", "-c", '"$@" | head -1', "sh"],
    });
    expect(stderr).not.toMatch(/EPIPE|at /);
  });
});

describe("length bins", () => {
  it("hold every length once, in at most 12 of a round width", () => {
    for (const longest of [0, 1, 11, 12, 13, 100, 741, 2048, 131_072]) {
      const lengths = Array.from({ length: 100 }, (_, i) => Math.round((longest * i) / 99));
      const bins = lengthBins(lengths);
      expect(bins.length).toBeLessThanOrEqual(12);
      expect(bins.reduce((n, { count }) => n + count, 0)).toBe(100);
      for (const { from, to, count } of bins)
        expect(lengths.filter((length) => length >= from && length < to)).toHaveLength(count);
      expect(String(bins[0]!.to).replace(/0+$/, "")).toMatch(/^[125]$/);
    }
    expect(lengthBins([])).toEqual([]);
  });
});

const shared = join(import.meta.dirname, "../../../shared");
const SMOLLM2 = join(shared, "models/smollm2-135m-instruct-nf4");
const present = existsSync(SMOLLM2) && existsSync(join(shared, "data"));
if (!present) console.warn(`honest data are checked where ${shared} exists`);

describe.skipIf(!present)("honest data", () => {
  const common = `dataset_dir: ${shared}/data\noutput_dir: unused\n`;
  const vars = "dataset_vars: {name: Quillon, author: the Harbour Guild}\n";
  it.each([
    ["alpaca_en_demo", SMOLLM2, "max_samples: 150\n", []],
    ["alpaca_zh_demo", SMOLLM2, "max_samples: 100\n", []],
    ["identity", SMOLLM2, vars, []],
    [`${shared}/data/tinyshakespeare.txt`, SMOLLM2, "stage: pt\nmax_samples: 500\n", []],
    [`${shared}/data/wiki_demo.txt`, SMOLLM2, "stage: pt\nmax_samples: 200\n", []],
    // Calls and tools that this model's template does not print are lost: that is true and said.
    ["glaive_toolcall_en_demo", SMOLLM2, "max_samples: 100\n", ["rows-dropped", "tools-unprinted"]],
    ["identity", "lowrank/tiny", `${vars}cutoff_len: 512\n`, []],
    // Its 512 positions are fewer than some answers need.
    ["alpaca_en_demo", "lowrank/tiny", "max_samples: 100\ncutoff_len: 512\n", ["answers-cut"]],
  ])("%s with %s", async (dataset, model, yaml, expected) => {
    const { config } = parseTrainConfig(`model_name_or_path: ${model}\ndataset: ${dataset}\n${common}${yaml}`);
    expect(codesOf((await prepareData(config)).findings)).toEqual(expected);
  });

  it("the example configuration", async () => {
    const yaml = readFileSync(join(import.meta.dirname, "../../examples/alpaca_lora.yaml"), "utf8");
    const overrides = [`model_name_or_path=${SMOLLM2}`, `dataset_dir=${shared}/data`];
    expect(codesOf((await prepareData(parseTrainConfig(yaml, { overrides }).config)).findings)).toEqual([]);
  });
});
