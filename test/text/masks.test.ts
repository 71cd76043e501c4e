import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { isIllDefined, type MaskedConversation, maskConversations, maskFromRegions, maskTurns } from "../../src/text/masks.js";
import type { Tokenizer } from "../../src/text/tokenizer.js";
import { byteTokenizer } from "./byte-tokenizer.js";

const PLAIN = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }};{% endfor %}{% if add_generation_prompt %}a:{% endif %}";
const MARKED =
  "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'assistant' %}{% generation %}{{ m.content }};{% endgeneration %}{% else %}{{ m.content }};{% endif %}{% endfor %}";
/** Prints earlier answers in another way than the last one. */
const SHIFTY =
  "{% for m in messages %}{{ m.role[0] }}:{% if m.role == 'user' or loop.last %}{{ m.content }}{% endif %};{% endfor %}{% if add_generation_prompt %}a:{% endif %}";

const talk = [
  { role: "user", content: "hi" },
  { role: "assistant", content: "yo" },
  { role: "user", content: "é?" },
  { role: "assistant", content: "ok" },
];

describe("assistant masks", () => {
  let folder: string;
  let tok: Tokenizer;
  let merging: Tokenizer;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "masks-"));
    tok = await byteTokenizer(join(folder, "plain"));
    merging = await byteTokenizer(join(folder, "merging"), { merges: [[":", "!"]] });
  });
  afterAll(() => rm(folder, { recursive: true }));

  const learnt = (t: Tokenizer, m: MaskedConversation) => t.decode(m.ids.filter((_, i) => m.mask[i] === 1));
  const one = async (t: Tokenizer, template: string, messages = talk) => {
    const [r] = await maskConversations(t, template, [{ messages }]);
    return r!;
  };

  it("are the same by marks and by prefixes", async () => {
    const marked = (await one(tok, MARKED)) as MaskedConversation;
    const grown = (await one(tok, PLAIN)) as MaskedConversation;
    expect(learnt(tok, marked)).toBe("yo;ok;");
    expect(marked).toEqual(grown);
    expect(marked.ids).toEqual([...Buffer.from("u:hi;a:yo;u:é?;a:ok;")]);
  });

  it("cover a token with one character inside a region", () => {
    expect([
      ...maskFromRegions(
        [
          [0, 2],
          [2, 2],
          [2, 4],
          [4, 6],
          [6, 9],
        ],
        [
          [3, 5],
          [8, 9],
        ],
      ),
    ]).toEqual([0, 0, 1, 1, 1]);
  });

  it("are refused where an earlier turn is printed differently, or a token spans a border", async () => {
    const shifty = await one(tok, SHIFTY);
    expect(isIllDefined(shifty)).toBe(true);
    expect(shifty).toMatchObject({ details: { reason: "the text of the first 2 messages is not a prefix of the whole" } });
    expect(isIllDefined(await one(merging, PLAIN, [talk[0]!, { role: "assistant", content: "!" }]))).toBe(true);
    expect(isIllDefined(await one(tok, PLAIN, [{ role: "assistant", content: "first" }]))).toBe(true);
    expect(isIllDefined(new LowrankError("TEMPLATE", "something else"))).toBe(false);
  });

  it("are refused where all prefixes together would be too long, but not with marks", async () => {
    const long = (answers: number, content: string) =>
      Array.from({ length: answers }, () => [talk[0]!, { role: "assistant", content }]).flat();
    const limit = { code: "TEMPLATE", details: { limit: "size" } };
    expect(await one(tok, PLAIN, long(300, "x"))).toMatchObject({ ...limit, details: { answers: 300, messages: 600 } });
    expect(await one(tok, PLAIN, long(20, "x".repeat(50_000)))).toMatchObject(limit);
    expect(await one(tok, PLAIN, long(200, "x"))).toHaveProperty("mask");
    expect(learnt(tok, (await one(tok, MARKED, long(300, "x"))) as MaskedConversation)).toBe("x;".repeat(300));
    expect(isIllDefined(await one(tok, PLAIN, long(300, "x")))).toBe(false);
    const endless: { role: string; content: unknown } = { role: "assistant", content: [] };
    endless.content = [endless];
    expect(await one(tok, PLAIN, [talk[0]!, endless as never])).toMatchObject({ code: "TEMPLATE", details: { raisedBy: "api" } });
  });

  it("can then be had for each answer by itself", async () => {
    const turns = (await maskTurns(tok, SHIFTY, { messages: talk })) as MaskedConversation[];
    expect(turns.map((t) => [t.text, learnt(tok, t)])).toEqual([
      ["u:hi;a:yo;", "yo;"],
      ["u:hi;a:;u:é?;a:ok;", "ok;"],
    ]);
    const [turn] = (await maskTurns(merging, PLAIN, {
      messages: [talk[0]!, { role: "assistant", content: "!" }],
    })) as MaskedConversation[];
    expect(turn!.ids).toEqual([...Buffer.from("u:hi;a:!;")]);
    expect(learnt(merging, turn!)).toBe("!;");
  });

  it("carry the error of the rendering that failed, and of that only", async () => {
    const failing = (condition: string, template: string) =>
      `{% if ${condition} %}{{ raise_exception('no') }}{% endif %}${template}`;
    const raised = { code: "TEMPLATE", details: { raisedBy: "template" } };
    const both = (template: string) =>
      maskConversations(tok, template, [{ messages: talk.slice(0, 2) }, { messages: talk.slice(0, 1) }]);
    expect(await both(failing("messages | length == 2", MARKED))).toMatchObject([raised, { text: "u:hi;" }]);
    expect(await both(failing("messages | length == 2", PLAIN))).toMatchObject([raised, { text: "u:hi;" }]);
    // Each of the two renderings that an answer of its own needs.
    expect(await maskTurns(tok, failing("add_generation_prompt", PLAIN), { messages: talk.slice(0, 2) })).toMatchObject([raised]);
    expect(await maskTurns(tok, failing("not add_generation_prompt", PLAIN), { messages: talk.slice(0, 2) })).toMatchObject([
      raised,
    ]);
  });

  it("are refused where what opens a message is not what stands before it", async () => {
    const other = `{% if add_generation_prompt %}another{% else %}${PLAIN}{% endif %}`;
    const refused = { details: { reason: "the text that opens message 2 is not a prefix of the text with it" } };
    expect(await one(tok, other, talk.slice(0, 2))).toMatchObject(refused);
    expect(await maskTurns(tok, other, { messages: talk.slice(0, 2) })).toMatchObject([refused]);
  });

  it("name a tokenizer whose tokens cannot be located", async () => {
    const normalizer = { type: "Replace", pattern: { String: "yo" }, content: "z" };
    const rewriting = await byteTokenizer(join(folder, "rewriting"), { normalizer });
    expect(await one(rewriting, MARKED, talk.slice(0, 2))).toMatchObject({ code: "UNSUPPORTED" });
  });
});
