import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { convertRows } from "../../src/data/convert.js";
import { checkAttr, datasetAttr, findDataset } from "../../src/data/dataset-info.js";
import { detectRows, loadRows } from "../../src/data/rows.js";

const refused = (message: string) => expect.objectContaining({ code: "DATASET", message: expect.stringContaining(message) });
const user = { role: "user", content: "q" };
const answer = { role: "assistant", content: "a" };

describe("a data set's entry", () => {
  const find = (entry: unknown, name = "d") => findDataset({ d: entry }, name, ".", "sft");

  it("must name a file here", async () => {
    await expect(find({}, "other")).rejects.toEqual(refused('defines no data set "other"'));
    await expect(find({ hf_hub_url: "a/b" })).rejects.toMatchObject({
      code: "UNSUPPORTED",
      hint: expect.stringContaining("file_name"),
    });
    await expect(find({ file_name: 5 })).rejects.toEqual(refused("has no file_name"));
  });

  it.each([
    [{ formatting: "xml" }, 'the unknown formatting "xml"'],
    [{ columns: { prompt: 5 } }, "has prompt: 5; it should be the name of a column or a text"],
    [{ num_samples: 0 }, "has num_samples: 0; it should be an integer"],
    [{ num_samples: 1.5 }, "has num_samples: 1.5"],
    [{ ranking: true }, "holds pairs of chosen and rejected answers, which stage sft cannot use"],
  ])("%j is refused", (entry, message) => {
    expect(() => checkAttr("d", datasetAttr(entry), "sft")).toThrow(refused(message));
  });

  it("needs pairs for the stages that learn from them", () => {
    expect(() => checkAttr("d", datasetAttr({}), "dpo")).toThrow(refused("has no pairs of chosen and rejected answers"));
  });
});

describe("rows that an entry does not describe", () => {
  const convert = (entry: Record<string, unknown>, ...rows: Record<string, unknown>[]) =>
    convertRows(rows, datasetAttr(entry), "d");
  const sharegpt = { formatting: "sharegpt" };
  const openai = {
    formatting: "openai",
    tags: { role_tag: "role", content_tag: "content", user_tag: "user", assistant_tag: "assistant", observation_tag: "tool" },
  };

  it.each([
    [
      { columns: { history: "history" } },
      { instruction: "i", input: "", output: "o", history: [["only"]] },
      "a history entry must be a pair",
    ],
    [{}, { instruction: {}, input: "", output: "o" }, "instruction and input must be texts"],
    [sharegpt, { conversations: 5 }, '"conversations" must be a list of messages'],
    [sharegpt, { conversations: [5] }, "a message must be an object"],
    [sharegpt, { conversations: [{ role: "user" }] }, 'its messages have no "from" (role_tag); they have: role'],
    [openai, { conversations: [{ ...answer, tool_calls: [5] }] }, "a tool call must be an object"],
    [openai, { conversations: [{ role: "robot", content: "x" }] }, 'the role "robot" is none of the tags'],
  ])("%j: %j", (entry, row, message) => {
    expect(() => convert(entry, row)).toThrow(refused(message));
  });

  it("name the column that none has", () => {
    expect(() => convert({}, { a: 1 })).toThrow(refused("has no column"));
    expect(() => convert({})).toThrow(refused("has no rows"));
  });

  it("have null for what one message lacks and another has", () => {
    const [row] = convert(sharegpt, { conversations: [{ from: "human", value: "q" }, { from: "gpt" }] });
    expect(row).toMatchObject({ _prompt: [{ content: "q" }], _response: [{ role: "assistant", content: null }] });
  });

  it("take an empty list of tools for none", () => {
    const [row] = convert(
      { ...openai, columns: { messages: "messages", tools: "tools" } },
      { messages: [user, answer], tools: [] },
    );
    expect(row).toMatchObject({ _tools: "", _system: "detailed thinking off" });
  });
});

describe("rows of a bare file", () => {
  const one = (row: Record<string, unknown>, stage: "sft" | "pt" = "sft") => detectRows([row], "x.json", stage)[0];
  const broken = (reason: string) => ({ kind: "broken", reason });
  const talk = [user, answer];

  it.each([
    [{ messages: [] }, "its messages are not a list of messages with roles"],
    [{ messages: [null] }, "its messages are not a list of messages with roles"],
    [{ messages: talk, tools: "{}" }, "its tools are not a JSON list"],
    [{ messages: talk, tools: "[" }, "its tools are not a JSON list"],
    [{ conversations: [{ from: "gpt", value: "a" }] }, "its messages are out of order, of an odd number, or of an unknown role"],
    [{ instruction: "q", output: null }, "it has no answer"],
    [{ instruction: "q", output: "a", tools: "5" }, "its tools are not a JSON list"],
    [{ prompt: "q", completion: 5 }, "its prompt and completion are neither two texts nor two lists of messages"],
    [{ prompt: [user], completion: "a" }, "its prompt and completion are neither two texts nor two lists of messages"],
    [{ prompt: [user], completion: [answer], tools: {} }, "its tools are not a JSON list"],
    [{ text: 5 }, "its text is not a text"],
  ])("%j cannot be used, and says why", (row, reason) => {
    expect(one(row)).toEqual(broken(reason));
  });

  it("are conversations under either name, with their tools as chat templates expect them", () => {
    const bare = { name: "f" };
    const wrapped = { type: "function", function: bare };
    expect(one({ conversations: talk, tools: [bare, wrapped] })).toEqual({
      kind: "chat",
      messages: talk,
      tools: [wrapped, wrapped],
    });
    expect(one({ prompt: [user], completion: [answer], tools: "[]" })).toEqual({ kind: "chat", messages: talk, tools: null });
  });

  it("keep a call that is no JSON as the text it is", () => {
    const call = (value: unknown) =>
      one({
        conversations: [
          { from: "human", value: "q" },
          { from: "function_call", value },
        ],
      });
    expect(call("just words")).toMatchObject({ messages: [user, { role: "assistant", content: "just words" }] });
    expect(call({ name: "f" })).toMatchObject({ messages: [user, { tool_calls: [{ function: { name: "f", arguments: {} } }] }] });
    expect(call('[{"name": "f", "arguments": "words"}, 5]')).toMatchObject({
      messages: [user, { tool_calls: [{ function: { name: "f", arguments: "words" } }] }],
    });
  });

  it("give the text of their first message in stage pt", () => {
    expect(one({ instruction: "q", output: "a" }, "pt")).toEqual({ kind: "text", text: "q" });
    expect(
      one(
        {
          conversations: [
            { from: "human", value: null },
            { from: "gpt", value: "a" },
          ],
        },
        "pt",
      ),
    ).toEqual(broken("it has no text"));
  });

  it("are refused as a whole where nothing fits", () => {
    expect(() => detectRows([], "x.json", "sft")).toThrow(refused("x.json has no rows"));
    expect(() => one({ chosen: 1, rejected: 2 })).toThrow(refused("pairs of chosen and rejected"));
    expect(() => one({ a: 1, b: 2 })).toThrow(refused("has the columns a, b, which is none of the known shapes"));
    expect(() => detectRows([{ text: "a" }], "x.json", "dpo")).toThrow(expect.objectContaining({ code: "UNSUPPORTED" }));
  });
});

describe("names of data sets", () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "rows-"));
    await writeFile(join(folder, "pairs.json"), JSON.stringify([{ instruction: "q", better: "a", worse: "b" }]));
    const pairs = {
      file_name: "pairs.json",
      ranking: true,
      columns: { prompt: "instruction", chosen: "better", rejected: "worse" },
    };
    await writeFile(join(folder, "dataset_info.json"), JSON.stringify({ pairs }));
  });
  afterAll(() => rm(folder, { recursive: true }));

  it("must be given, and be there", async () => {
    await expect(loadRows({ dataset: " , ", stage: "sft" })).rejects.toEqual(refused("No data set is named"));
    await expect(loadRows({ dataset: "nowhere.json", stage: "sft" })).rejects.toMatchObject({ code: "NOT_FOUND" });
    await expect(loadRows({ dataset: "d", datasetDir: join(folder, "none"), stage: "sft" })).rejects.toMatchObject({
      code: "NOT_FOUND",
      hint: expect.stringContaining("dataset_dir"),
    });
    await writeFile(join(folder, "broken.txt"), "");
    await expect(loadRows({ dataset: "broken.txt", datasetDir: folder, stage: "pt" })).rejects.toEqual(
      refused("broken.txt has no rows"),
    );
  });

  it("of pairs are described but not trained", async () => {
    const [row] = await loadRows({ dataset: "pairs", datasetDir: folder, stage: "dpo" });
    expect(row).toEqual({ kind: "broken", reason: "it has two answers" });
  });
});
