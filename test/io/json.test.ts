import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseJson, readJsonFile } from "../../src/io/json.js";
import { errorOf, tempFolder } from "./files.js";

describe("parseJson", () => {
  it("agrees with JSON.parse on any value without duplicate keys", () => {
    fc.assert(
      fc.property(fc.json({ maxDepth: 5 }), (text) => {
        expect(parseJson(text, "x")).toEqual(JSON.parse(text));
      }),
      { numRuns: 300 },
    );
  });

  it("finds a duplicate key at any depth, escaped or not", () => {
    expect(() => parseJson('{"a":[{"b":1,"c":{"x":1}},{"\\u0062":1,"b":2}]}', "f.json")).toThrow(
      /f.json has the key "b" twice .*position 38/,
    );
    expect(parseJson('{"a":{"a":["a","a"]},"b":{"a":"}\\"a"}}', "x")).toEqual({ a: { a: ["a", "a"] }, b: { a: '}"a' } });
  });

  it("keeps __proto__ as a key and drops a byte order mark", () => {
    const value = parseJson('\ufeff{"__proto__":{"x":1}}', "x");
    expect(Object.keys(value as object)).toEqual(["__proto__"]);
    expect(({} as Record<string, unknown>).x).toBeUndefined();
  });
});

describe("limits", () => {
  it.each([
    ["[[],[]]", 2],
    ["[1,2]", 1],
    ['{"a":{}}', 1],
  ])("%s has more values than %i", (text, values) => {
    expect(() => parseJson(text, "x", { bytes: 100, values })).toThrow(new RegExp(`more than ${values} values`));
    expect(parseJson(text, "x", { bytes: 100, values: 5 })).toEqual(JSON.parse(text));
  });

  it("nesting ends at 128", () => {
    const nested = (depth: number) => "[".repeat(depth) + "]".repeat(depth);
    expect(parseJson(nested(128), "x")).toBeInstanceOf(Array);
    expect(() => parseJson(nested(129), "x")).toThrow(/nested more than 128 deep at position 128/);
  });
});

describe("readJsonFile", () => {
  it("refuses what is absent, too large, not UTF-8, not an object or cut short", async () => {
    const path = join(tempFolder(), "c.json");
    expect((await errorOf(readJsonFile(path))).code).toBe("NOT_FOUND");
    const refused: [string | Uint8Array, RegExp][] = [
      ['{"a":', /not valid JSON/],
      ["[1]", /found a list/],
      ["null", /found null/],
      ["5", /found a number/],
      [Uint8Array.of(0x22, 0xff, 0x22), /not UTF-8/],
      [`{"a":"${"x".repeat(200)}"}`, /more than the 100/],
    ];
    for (const [content, message] of refused) {
      writeFileSync(path, content);
      const error = await errorOf(readJsonFile(path, { bytes: 100, values: 100 }));
      expect(error.code).toBe("INVALID_FILE");
      expect(error.message).toMatch(message);
    }
  });
});
