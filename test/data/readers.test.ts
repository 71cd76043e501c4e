import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readRows } from "../../src/data/readers.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "readers-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Bytes of a file that are read at once: what lies across a border of it is read in two parts. */
const CHUNK = 2 ** 18;

async function rows(name: string, content: string | Uint8Array) {
  await mkdir(dirname(join(folder, name)), { recursive: true });
  await writeFile(join(folder, name), content);
  return readRows(join(folder, name));
}
const refused = (message: string) => ({ code: "DATASET", message: expect.stringContaining(message) });

describe("JSON files", () => {
  it.each([
    ["a list", '[{"a": 1}, {"b": [2, {"c": "]}"}]}]', [{ a: 1 }, { b: [2, { c: "]}" }] }]],
    ["an empty list", " [ ] \n", []],
    ["a byte order mark", '\uFEFF[{"a": "x"}]', [{ a: "x" }]],
    ["objects on lines of their own", '\n{"a": "\\"}"}\r\n{"a": "b"}\n\n{}\n', [{ a: '"}' }, { a: "b" }, {}]],
  ])("may hold %s", async (_, content, expected) => {
    expect(await rows("x.json", content)).toEqual(expected);
  });

  it("are read alike wherever a part of them ends", async () => {
    const values = [{ a: 'x"\\' }, { b: "é😀" }];
    for (let shift = 0; shift < 40; shift += 1) {
      const pad = " ".repeat(CHUNK - shift);
      expect(await rows("x.json", `${pad}${JSON.stringify(values)}`), String(shift)).toEqual(values);
      expect(await rows("x.json", `${pad}${values.map((v) => JSON.stringify(v)).join("\n")}`), String(shift)).toEqual(values);
    }
  });

  it.each([
    ["", "it is empty"],
    ["  \n", "it is empty"],
    ["5", "it begins with neither a list nor an object"],
    ['"a"', "it begins with neither a list nor an object"],
    ["[{}] x", "something stands behind its list"],
    ["{} {}", 'unexpected "{" behind row 1'],
    ["{}\n[]", 'unexpected "[" behind row 1'],
    ["{}]", 'unexpected "]" behind row 1'],
    ['[{"a": 1', "it ends in the middle of row 1"],
    ['[{}, "a', "it ends in the middle of row 2"],
    ["{", "it ends in the middle of row 1"],
    ["[{},]", "row 2 is not valid JSON"],
    ["[1]", "row 1 must be a JSON object"],
    ['[{"a": 1, "a": 2}]', "row 1 is not valid JSON"],
  ])("that hold %j are refused", async (content, message) => {
    await expect(rows("x.json", content)).rejects.toMatchObject(refused(message));
  });
});

describe("JSON lines", () => {
  it("may have empty lines and any line ends, but no broken row", async () => {
    expect(await rows("x.jsonl", '\uFEFF{"a": 1}\r\n\n{"a": 2}\r  \r{"a": 3}')).toEqual([{ a: 1 }, { a: 2 }, { a: 3 }]);
    await expect(rows("x.jsonl", '{"a": 1}\n[]')).rejects.toMatchObject(refused("line 2 must be a JSON object"));
    await expect(rows("x.jsonl", '{"a": 1}\n{')).rejects.toMatchObject(refused("line 2 is not valid JSON"));
    await expect(rows("x.jsonl", Uint8Array.of(0x7b, 0xff))).rejects.toMatchObject(refused("line 1 is not UTF-8 text"));
  });
});

describe("text files", () => {
  it("have a row for each line, whatever ends it", async () => {
    expect(await rows("x.txt", "a\n\nb\r\nc\rd")).toEqual([
      { text: "a" },
      { text: "" },
      { text: "b" },
      { text: "c" },
      { text: "d" },
    ]);
    expect(await rows("x.txt", "")).toEqual([]);
  });

  it("keep a line end whole where a part of the file ends in it", async () => {
    const line = "x".repeat(CHUNK - 1);
    expect(await rows("x.txt", `${line}\r\nb\r\n`)).toEqual([{ text: line }, { text: "b" }]);
    expect(await rows("x.txt", `${line}\rb`)).toEqual([{ text: line }, { text: "b" }]);
  });
});

describe("CSV files", () => {
  it("have null for an empty cell", async () => {
    expect(await rows("x.csv", '\uFEFFa,b\n1,\n\n"x, ""y""",é\n')).toEqual([
      { a: "1", b: null },
      { a: 'x, "y"', b: "é" },
    ]);
  });

  it.each([
    ["a,a\n1,2\n", 'has the column "a" twice'],
    ["__proto__\n1\n", "has a column __proto__"],
    [`${Array.from({ length: 10_001 }, (_, i) => i).join(",")}\n`, "has 10001 columns, more than 10000"],
    ["a,b\n1\n", "Invalid Record Length"],
    ['a\n"x', "Quote Not Closed"],
    [Uint8Array.of(0x61, 0x0a, 0xff), "is not UTF-8 text"],
    [Uint8Array.of(0x61, 0x0a, 0xc3), "is not UTF-8 text"],
  ])("that hold %j are refused", async (content, message) => {
    await expect(rows("x.csv", content)).rejects.toMatchObject(refused(message));
  });
});

describe("folders", () => {
  it("are read in the order of their names, hidden files left out", async () => {
    await rows("many/b.txt", "2");
    await rows("many/a.txt", "1");
    await writeFile(join(folder, "many", ".hidden"), "x");
    expect(await readRows(join(folder, "many"))).toEqual([{ text: "1" }, { text: "2" }]);
  });

  it("must hold files of one type", async () => {
    await mkdir(join(folder, "none"));
    await expect(readRows(join(folder, "none"))).rejects.toMatchObject(refused("must all be of one type, found none"));
    await rows("mixed/a.txt", "1");
    await rows("mixed/b.csv", "a\n");
    await expect(readRows(join(folder, "mixed"))).rejects.toMatchObject(refused("found .txt, .csv"));
  });
});

it("what cannot be read is named with its remedy", async () => {
  await expect(readRows(join(folder, "nowhere.json"))).rejects.toMatchObject({ code: "NOT_FOUND" });
  await expect(rows("x.parquet", "")).rejects.toMatchObject({ code: "UNSUPPORTED", hint: expect.stringContaining("to_json") });
  await expect(rows("x.xml", "")).rejects.toMatchObject(refused("is of no known type"));
});
