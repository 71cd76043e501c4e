import { spawnSync } from "node:child_process";
import { describe, expect, it } from "vitest";
import { LowrankError } from "../../src/errors.js";
import { type RenderOptions, renderChatBatch, renderChatTemplate } from "../../src/text/chat-template.js";

const user = [{ role: "user", content: "hi" }];
const render = (template: string, variables: Record<string, unknown> = {}, options: RenderOptions = {}) =>
  renderChatTemplate(template, user, { variables, ...options });

// Expected texts are those of Jinja 3.1 with transformers' settings (trim_blocks, lstrip_blocks, its own tojson).
describe("what Python's Jinja prints", () => {
  const cases: [name: string, template: string, expected: string, variables?: Record<string, unknown>][] = [
    ["numbers", "{{ 1 }} {{ 1.0 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 ** 3 }} {{ 10 ** -2 }}", "1 1.0 3 3.5 2 8 0.01"],
    [
      "constants and lists",
      "{{ none }} {{ true }} {{ [1, 'a', none] }} {{ {'k': \"it's\"} }} {{ (1, 'b') }}",
      "None True [1, 'a', None] {'k': \"it's\"} (1, 'b')",
    ],
    [
      "an undefined name",
      "[{{ nothing }}]{{ nothing is defined }}{{ nothing | default('x') }}{{ nothing | length }}",
      "[]Falsex0",
    ],
    [
      "tojson",
      "{{ x | tojson }}",
      '{"a": [1.0, 1e+16, 1e-05, "<é>"], "b": null}',
      { x: { a: [Object(1), 1e16, 1e-5, "<é>"], b: null } },
    ],
    [
      "tojson with indent and sorted keys",
      "{{ {'b': [], 'a': [1]} | tojson(indent=2, sort_keys=true) }}",
      '{\n  "a": [\n    1\n  ],\n  "b": []\n}',
    ],
    ["strip with characters", "{{ '\\n\\nx\\n' .strip('\\n') }}|{{ ' \\t x' .lstrip() }}|{{ 'xyx' | trim('x') }}", "x|x|y"],
    [
      "split, replace, title, slices",
      "{{ 'a  b'.split() }}{{ 'a,b,c'.split(',', 1) }}{{ 'aXa'.replace('a', '', 1) }}{{ 'a b'.title() }}{{ '😀ab'[::-1] }}",
      "['a', 'b']['a', 'b,c']XaA Bba😀",
    ],
    [
      "a scope for each round",
      "{% for i in range(3) %}{{ x is defined }}{% set x = i %}{{ x }} {% endfor %}{{ x is defined }}",
      "False0 False1 False2 False",
    ],
    [
      "a namespace across rounds",
      "{% set ns = namespace(n=0) %}{% for i in [1, 2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
      "3",
    ],
    [
      "break keeps what was printed",
      "{% for i in [1, 2, 3] %}<{{ i }}{% if i == 2 %}{% break %}{% endif %}>{% endfor %}",
      "<1><2",
    ],
    [
      "loops over texts, dicts and conditions",
      "{% for c in 'ab' %}{{ loop.index }}{{ c }}{% endfor %}{% for k, v in {'x': 1}.items() %}{{ k }}{{ v }}{% endfor %}{% for i in [] %}{% else %}none{% endfor %}",
      "1a2bx1none",
    ],
    ["macros with defaults", "{% macro m(a, b='?') %}{{ a }}{{ b }}{% endmacro %}{{ m('x') }}{{ m('x', b='y') }}", "x?xy"],
    [
      "macros do not see the caller's names",
      "{% macro m() %}[{{ i }}]{% endmacro %}{% for i in [1] %}{{ m() }}{% endfor %}",
      "[]",
    ],
    ["white space control", "a\n  {% if true %}\n  b\n  {%- endif %}\n\nc  {{- ' d' -}}  e\n", "a\n  b\nc de"],
    [
      "filters over lists",
      "{{ [{'n': 2}, {'n': 1}] | sort(attribute='n') | map(attribute='n') | join('-') }} {{ [1, 2, 3] | select('odd') | list }} {{ 'b a'.split() | sort | first }}",
      "1-2 [1, 3] a",
    ],
    [
      "a condition that sees what the body hides",
      "{% for x in [1] if 'a' in s %}{% set s = 1 %}{{ x }}{% endfor %}",
      "1",
      { s: "a" },
    ],
    ["a name that a frame assigns first", "{% for x in [1] %}{{ s }}{% endfor %}{% set s = 1 %}{{ s }}", "1", { s: "a" }],
    ["chains of comparisons, ~ before +", "{{ 3 > 2 > 1 }} {{ 'a' + 1 ~ 2 }}", "True a12"],
    ["else behind a break", "{% for x in [1] %}{% break %}{% else %}none{% endfor %}", "none"],
    ["generators are true", "{% if [] | select %}a{% endif %}{% if [0] | select %}b{% endif %}", "ab"],
    ["signs inside text", "a-}\n#}\n100%}\nb", "a-}\n#}\n100%}\nb"],
    ["Unicode", "{{ '{{ x }}' }}{{ text | upper }}", "{{ x }}GRÜSSE 中", { text: "grüße 中" }],
  ];
  it.each(cases)("%s", async (_, template, expected, variables) => {
    expect(await render(template, variables)).toBe(expected);
  });

  it("the clock of strftime_now", async () => {
    expect(await render("{{ strftime_now('%d %b %Y %H:%M %-d') }}", {}, { now: new Date(2026, 2, 5, 14, 7) })).toBe(
      "05 Mar 2026 14:07 5",
    );
  });

  it.each([
    ["text and a list", "{{ 'a' + [1] }}"],
    ["text and undefined", "{{ 'a' + nothing }}"],
    ["an attribute of undefined", "{{ nothing.x }}"],
    ["an unknown filter", "{{ 'a' | frobnicate }}"],
    ["a syntax error", "{% if %}"],
    ["division by zero", "{{ 1 // 0 }}"],
    ["a dict looked for among keys", "{{ {} in {}.keys() }}"],
    ["a generator printed", "{{ [1] | select }}"],
    ["a comma left out", "{{ [1 2] }}"],
    ["a power of a negative number", "{{ (-3) ** 2 }}"],
    ["a method Python has", "{{ 'a'.zfill(3) }}"],
  ])("refuses %s", async (_, template) => {
    await expect(render(template)).rejects.toMatchObject({ code: "TEMPLATE", details: { raisedBy: "runtime" } });
  });
});

describe("conversations", () => {
  const plain =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";

  it("continues the last message, drops null keys and finds reasoning under either name", async () => {
    expect(await renderChatTemplate(plain, [...user, { role: "assistant", content: "a " }], { continueFinalMessage: true })).toBe(
      "<user>hi</><assistant>a ",
    );
    expect(await render(plain, {}, { addGenerationPrompt: true })).toBe("<user>hi</><assistant>");
    const keys = "{% for m in messages %}{{ m.keys() | list }}{% endfor %}";
    expect(await renderChatTemplate(keys, [{ role: "user", content: null, reasoning: "r" }])).toBe(
      "['thinking', 'role', 'reasoning', 'reasoning_content']",
    );
  });

  it("refuses what goes together with nothing", async () => {
    await expect(renderChatTemplate(plain, [])).rejects.toMatchObject({ details: { raisedBy: "api" } });
    await expect(render(plain, {}, { addGenerationPrompt: true, continueFinalMessage: true })).rejects.toMatchObject({
      details: { raisedBy: "api" },
    });
    await expect(render("{{ raise_exception('no system') }}")).rejects.toMatchObject({
      details: { raisedBy: "template", message: "no system" },
    });
  });

  it("finds the regions between generation marks", async () => {
    const template =
      "{% for m in messages %}\n  {%- if m.role == 'assistant' %}\n  {%- generation %}\n  {{- m.content }}\n  {%- endgeneration %}\n  {%- else %}{{ m.content }}:{% endif %}\n{%- endfor %}";
    const [r] = await renderChatBatch(template, [{ messages: [...user, { role: "assistant", content: "yes" }], marks: true }]);
    expect(r).toEqual({ text: "hi:yes", regions: [[3, 6]] });
  });
});

describe("hostile templates", () => {
  it("are named, with their limit", async () => {
    const [r] = await renderChatBatch("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", [
      { messages: user, templateName: "some/model" },
    ]);
    expect(r).toMatchObject({
      code: "TEMPLATE",
      message: expect.stringMatching(/^The chat template of some\/model was stopped at its limit of work: /),
      details: { raisedBy: "limit", limit: "work", template: "some/model" },
    });
    const [long] = await renderChatBatch("x".repeat(300_000), [{ messages: user }]);
    expect(long).toMatchObject({ details: { limit: "size" } });
    expect(await render("ok")).toBe("ok");
  });

  it("costs its own conversation only", async () => {
    const template =
      "{% if messages[0].content == 'bad' %}{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}{% endif %}fine";
    const results = await renderChatBatch(
      template,
      ["a", "bad", "b"].map((content) => ({ messages: [{ role: "user", content }] })),
    );
    expect(results.map((r) => (r instanceof LowrankError ? "refused" : r.text))).toEqual(["fine", "refused", "fine"]);
  });

  it("cannot reach JavaScript", async () => {
    for (const name of ["constructor", "__proto__", "toString", "valueOf"]) {
      expect(await render(`[{{ messages.${name} }}{{ messages[0]['${name}'] }}{{ 'a'['${name}'] }}{{ ${name} }}]`)).toBe("[]");
    }
  });
});

describe("what is no data", () => {
  it.each([
    ["a function", { role: "user", content: () => "x" }],
    ["a Map", { role: "user", content: new Map() }],
    [
      "itself",
      (() => {
        const m: Record<string, unknown> = { role: "user" };
        m.self = m;
        return m;
      })(),
    ],
  ])("%s is refused, and costs its own conversation only", async (_, message) => {
    const results = await renderChatBatch("fine", [{ messages: user }, { messages: [message as never] }]);
    expect(results[0]).toMatchObject({ text: "fine" });
    expect(results[1]).toMatchObject({ code: "TEMPLATE", details: { raisedBy: "api" } });
  });
});

describe("the worker", () => {
  it("does not keep the process alive", () => {
    const file = new URL("../../src/text/chat-template.ts", import.meta.url).href;
    const code = `import { renderChatTemplate } from ${JSON.stringify(file)}; console.log(await renderChatTemplate("ok", [{ role: "user" }]));`;
    const run = spawnSync(process.execPath, ["--import", "tsx", "--input-type=module", "-e", code], {
      timeout: 20_000,
      encoding: "utf8",
    });
    expect([run.status, run.stdout]).toEqual([0, "ok\n"]);
  });
});
