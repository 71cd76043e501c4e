/** The interpreter in this thread: it prints what Python prints, or refuses with an error of its own kind. */
import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { parseJson } from "../../../src/data/json.js";
import { type Conversation, limitsFor, requestOf } from "../../../src/text/chat-template.js";
import { TemplateLimitError, TemplateRaised, TemplateRuntimeError } from "../../../src/text/jinja/limits.js";
import { RenderArgumentError, render } from "../../../src/text/jinja/render.js";
import { answer } from "../../../src/text/jinja/worker.js";
import { hostileTemplate, randomFrom } from "../hostile/generator.js";
import { HOSTILE } from "../hostile/templates.js";

const REFUSALS = [TemplateLimitError, TemplateRaised, TemplateRuntimeError, RenderArgumentError, RangeError];
const REFUSED = Symbol("refused");

function outcome(template: string, conversation: Conversation): string | typeof REFUSED {
  const request = requestOf(conversation);
  try {
    return render(template, request, limitsFor(request)).text;
  } catch (error) {
    // A TypeError would be a fault of the interpreter's own, whatever the template is.
    if (REFUSALS.some((kind) => error instanceof kind)) return REFUSED;
    throw error;
  }
}

const cases = new URL("../differential/cases/", import.meta.url);

describe.each(readdirSync(cases).filter((file) => file.endsWith(".jsonl")))("%s", (file) => {
  const lines = readFileSync(new URL(file, cases), "utf8").split("\n").filter(Boolean);

  it.each(lines.map((line, i) => [i + 1, line]))("line %i", (_, line) => {
    // biome-ignore lint/suspicious/noExplicitAny: cases are data
    const c = parseJson(String(line)) as any;
    const got = outcome(c.template, { ...c, now: new Date(2026, 2, 5, 14, 7, 9) });
    expect(got, c.template).toBe(c.error ? REFUSED : c.expected);
  });
});

describe("hostile templates", () => {
  const conversation = { messages: [{ role: "user", content: "hi" }] };
  const random = randomFrom(7);
  const generated = Array.from({ length: 100 }, (_, i) => [`generated ${i}`, hostileTemplate(random)] as const);

  it.each([...HOSTILE, ...generated])("%s", (_, template) => {
    outcome(template, conversation);
    expect(outcome("{{ messages[0].content }}", conversation)).toBe("hi");
  });
});

const hi = requestOf({ messages: [{ role: "user", content: "hi" }] });
const LIMITS = { work: 1e9, milliseconds: 1e9 };
const results = (template: string, ...conversations: Partial<typeof hi>[]) =>
  answer({ template, requests: conversations.map((c) => ({ ...hi, ...c })), limits: conversations.map(() => LIMITS) });

// Python prints something for each of these, which the renderer does not know how to print alike.
describe("what Python renders and this does not", () => {
  it.each([
    ["{{ [1] | tojson(separators='ab') }}", "separators must be two texts"],
    ["{{ [1] | select }}", "a iterator cannot be printed"],
    ["{{ range }}", "a function cannot be printed"],
    ["{{ messages[0][[]] }}", "unhashable type: 'list'"],
    ["{{ messages[0][1:] }}", "'dict' object cannot be sliced"],
    ["{% for x in [1] recursive %}{% endfor %}", "recursive loops are not supported"],
    ["{% for x in [1] %}{% set y %}{% break %}{% endset %}{% endfor %}", "break stands outside a loop"],
    ["{% block a %}{% endblock %}", "'block' is not supported in chat templates"],
    ["{{ {1: 2} }}", "a key of a dict must be a text here, not int"],
    ["{{ dict([(1, 2)]) }}", "a key of a dict must be a text here, not int"],
    ["{{ (-2) ** 2 }}", "powers of negative numbers are not supported"],
    ["{{ 2.0 ** 2 }}", "powers of floats are not supported"],
    ["{{ (2 ** 53 + 1) + 1.5 }}", "beyond 53 bits", "limit"],
    ["{{ 2 ** -60 }}", "beyond 53 bits", "limit"],
    ["{{ [1, 'nan' | float] | sort }}", "sorting NaN is not supported"],
    ["{{ '11' | int(base=2) }}", "another base than 10 is not supported"],
    ["{{ '１' | int }}", "digits beyond ASCII are not supported"],
    ["{{ 15 | round(-1) }}", "round to -1 places is not supported"],
    ["{{ 1e16 | round }}", "round of 1e+16 is not supported"],
    ["{{ 'ß'.title() }}", "making a title of 'ß' is not supported"],
    ["{{ 'ǆ'.capitalize() }}", "making a title of 'ǆ' is not supported"],
    ["{{ 'a' | e | upper }}", "this filter on HTML-safe text is not supported"],
    ["{{ ('a' | e)[0] }}", "a part of HTML-safe text is not supported"],
    ["{{ ('a' | e).upper() }}", "'upper' of a markup is not supported"],
    ["{{ ('a' | e) is lower }}", "'lower' of markup text is not supported"],
    ["{{ true.real }}", "'real' of a bool is not supported"],
    ["{{ {}.items().mapping }}", "'mapping' of a dict_items is not supported"],
    ["{{ 1 is sameas 1 }}", "'sameas' is not supported here"],
    ["{{ {}.keys() == {}.keys() }}", "comparing two dict_keys is not supported"],
    ["{{ 'a' | center }}", "The filter 'center' is not supported"],
    ["{{ 'upper' is filter }}", "The test 'filter' is not supported"],
    ["{{ cycler(1) }}", "'cycler' is not supported"],
    ["{{ strftime_now('%Q') }}", 'the format "%Q" is not known'],
    ["{% for () in [] %}{% endfor %}", "expected a name to assign to"],
    ["{{ f }}", "a function cannot be given to a template", "runtime", { f: () => 1 }],
  ])("refuses %s", (template, message, refusedBy = "runtime", variables: Record<string, unknown> = {}) => {
    expect(results(template, { variables })).toEqual([expect.objectContaining({ refusedBy })]);
    expect(results(template, { variables })[0]).toHaveProperty("message", expect.stringContaining(message));
  });

  it("a generation block whose place in the output cannot be told", () => {
    const template = "{% macro m() %}{% generation %}x{% endgeneration %}{% endmacro %}{{ m() }}";
    expect(results(template, { marks: true }, {})).toMatchObject([{ refusedBy: "runtime" }, { text: "x" }]);
  });
});

describe("a rendering", () => {
  it("finds the regions between generation marks, where asked to", () => {
    const template = "a{% generation %}bc{% endgeneration %}{% generation %}{% endgeneration %}d";
    expect(results(template, { marks: true }, { marks: false })).toMatchObject([
      { text: "abcd", regions: [[1, 3]] },
      { text: "abcd", regions: [] },
    ]);
  });

  it("reads the clock it is given", () => {
    const now = new Date(2026, 2, 5, 12, 7, 9).getTime();
    expect(results("{{ strftime_now('%I %p %H') }}", { now })).toMatchObject([{ text: "12 PM 12" }]);
  });

  it("takes what is undefined for undefined, and a Number for a float", () => {
    expect(results("{{ a is defined }} {{ b }}", { variables: { a: undefined, b: Object(1) } })).toMatchObject([
      { text: "False 1.0" },
    ]);
  });

  it("names who refused, and goes on with the next conversation", () => {
    const template =
      "{% set c = messages[0].content %}{% if c == 'raise' %}{{ raise_exception('no') }}{% elif c == 'work' %}{{ range(99999) | list * 99999 }}{% elif c == 'fail' %}{{ 1 / 0 }}{% endif %}{{ c }}";
    const say = (content: string) => ({ messages: [{ role: "user", content }] });
    expect(results(template, say("raise"), { messages: [] }, say("work"), say("fail"), say("ok"))).toMatchObject([
      { refusedBy: "template", message: "no" },
      { refusedBy: "api" },
      { refusedBy: "limit", limit: "work" },
      { refusedBy: "runtime", message: "division by zero" },
      { text: "ok" },
    ]);
  });

  it("is stopped by the clock where the count of work does not see it", () => {
    const requests = [hi, hi];
    const limits = [{ work: 1e9, milliseconds: -1 }, LIMITS];
    expect(answer({ template: "{% for i in range(9999) %}{{ i }}{% endfor %}", requests, limits })).toMatchObject([
      { refusedBy: "limit", limit: "time" },
      { text: expect.stringMatching(/9998$/) },
    ]);
  });

  it("refuses a source nested too deeply, also where the stack ends first", () => {
    expect(results(`{{ ${"(".repeat(300)}1${")".repeat(300)} }}`, {})).toMatchObject([{ refusedBy: "limit", limit: "depth" }]);
    // Data may be nested as deeply as they like until they are walked: here the stack ends.
    let deep: unknown = 1;
    for (let i = 0; i < 50_000; i++) deep = [deep];
    expect(results("{{ x }}", { variables: { x: deep } })).toMatchObject([{ refusedBy: "limit", limit: "depth" }]);
  });
});

describe("a last message that goes on", () => {
  const template = "{% for m in messages %}<{{ m.content if m.content is string else m.content[-1].text }}>{% endfor %}";
  const goesOn = (content: unknown, from = template) =>
    results(from, { continueFinalMessage: true, messages: [{ role: "assistant", content }] });

  it("is cut behind its text, be it a text or the last text of several parts", () => {
    expect(goesOn("a ")).toMatchObject([{ text: "<a " }]);
    expect(goesOn([{ type: "image" }, { type: "text", text: "b" }])).toMatchObject([{ text: "<b" }]);
    // The template trims: so does the end.
    expect(goesOn("c  ", "{{ messages[0].content | trim }}!")).toMatchObject([{ text: "c" }]);
  });

  it.each([
    ["has no text", 5, template],
    ["has parts without a text", [{ type: "image" }], template],
    ["is not printed", "a", "{% if false %}content{% endif %}x"],
    ["is not read by the template", "a", "x"],
  ])("is refused where it %s", (_, content, from) => {
    expect(goesOn(content, from)).toMatchObject([{ refusedBy: "api" }]);
  });
});
