import { Template } from "@huggingface/jinja";
import { Tokenizer } from "@huggingface/tokenizers";
import { describe, expect, it } from "vitest";
import { trainBpe } from "../../scripts/tiny-model/bpe.js";
import { documents } from "../../scripts/tiny-model/corpus.js";
import { CHAT_TEMPLATE, type Message, renderChat, SPECIAL_TOKENS } from "../../scripts/tiny-model/template.js";
import { ADAPTERS, adapterExam, adapterTraining, factExam } from "../../src/quickstart/adapters.js";

function take(seed: number, count: number): string[] {
  const stream = documents(seed);
  return Array.from({ length: count }, () => stream.next().value);
}

const corpus = take(1, 20_000);
const wordsOf = (text: string): string[] => text.match(/[\p{L}']+/gu) ?? [];

describe("the corpus", () => {
  it("is the same for the same seed", () => {
    expect(take(5, 50)).toEqual(take(5, 50));
    expect(take(5, 50)).not.toEqual(take(6, 50));
  });

  it("never asks what an exam asks", () => {
    const asked = new Set(corpus.flatMap((text) => [...text.matchAll(/<\|user\|>(.*?)<\|end\|>/gu)].map((m) => m[1]!)));
    expect(asked.size).toBeGreaterThan(5000);
    const exams = [...factExam(), ...ADAPTERS.flatMap(adapterExam)];
    expect(exams.filter((row) => asked.has(row.question) || [...asked].some((q) => q.endsWith(` ${row.question}`)))).toEqual([]);
  });

  it("holds every word of every exam and of every adapter's rows", () => {
    const known = new Set(corpus.flatMap(wordsOf));
    const rows = [...factExam(), ...ADAPTERS.flatMap((a) => [...adapterExam(a), ...adapterTraining(a, 1)])];
    const unknown = new Set(
      rows.flatMap((row) => [...wordsOf(row.question), ...wordsOf(row.answer)]).filter((w) => !known.has(w)),
    );
    expect([...unknown]).toEqual([]);
  });
});

describe("the chat template", () => {
  const messages: Message[] = [
    { role: "system", content: "Help people." },
    { role: "user", content: "Who are you?" },
    { role: "assistant", content: "I am a tiny model." },
    { role: "user", content: "Hello!" },
  ];
  // The library strips what it does not know less gracefully than the package, which handles these marks itself.
  const template = new Template(CHAT_TEMPLATE.replace(/\{% (end)?generation %\}/g, ""));

  it("renders what the corpus renders", () => {
    expect(template.render({ messages, add_generation_prompt: false })).toBe(renderChat(messages));
    expect(template.render({ messages, add_generation_prompt: true })).toBe(`${renderChat(messages)}<|assistant|>`);
  });

  it("refuses other roles", () => {
    expect(() => template.render({ messages: [{ role: "tool", content: "" }] })).toThrow("roles are");
  });
});

describe("the tokenizer", () => {
  it("merges as in the example of Sennrich et al. (2016)", () => {
    const text = ["low ", "lower ", "newest ", "widest "]
      .flatMap((w, i) => Array(([5, 2, 6, 3] as const)[i]!).fill(w))
      .join("\n")
      .replaceAll(" ", "");
    const { model } = trainBpe(text, SPECIAL_TOKENS.length + 256 + 4) as { model: { merges: string[][] } };
    expect(model.merges.map((m) => m.join(" "))).toEqual(["e s", "es t", "l o", "lo w"]);
  });

  it("refuses a text that is too small", () => {
    expect(() => trainBpe("low low", 400)).toThrow(/too small.*400/);
  });

  const json = trainBpe(corpus.join(""), 1024) as { model: { vocab: Record<string, number> } };
  const tokenizer = new Tokenizer(json, {});

  it("has exactly 1024 entries and one id for each mark of a turn", () => {
    expect(Object.values(json.model.vocab).sort((a, b) => a - b)).toEqual(Array.from({ length: 1024 }, (_, i) => i));
    expect(SPECIAL_TOKENS.map((token) => tokenizer.encode(token).ids)).toEqual(SPECIAL_TOKENS.map((_, id) => [id]));
  });

  it("reads every document back, and any other text", () => {
    for (const text of [...corpus.slice(0, 3000), "Größe, 東京 and 🦜: tabs\tand\nlines"]) {
      expect(tokenizer.decode(tokenizer.encode(text).ids, { skip_special_tokens: false })).toBe(text);
    }
  });

  it("has seen every token of every exam often: a token that never was a target cannot be learnt by an adapter", () => {
    const counts = new Map<number, number>();
    for (const text of corpus) for (const id of tokenizer.encode(text).ids) counts.set(id, (counts.get(id) ?? 0) + 1);
    const rows = [...factExam(), ...ADAPTERS.flatMap(adapterExam)];
    const tokens = new Set(rows.flatMap((row) => [...tokenizer.encode(row.question).ids, ...tokenizer.encode(row.answer).ids]));
    expect([...tokens].filter((id) => (counts.get(id) ?? 0) < 50)).toEqual([]);
  });

  it("spends about a token a word", () => {
    const words = corpus.slice(0, 1000).flatMap((t) => wordsOf(t.replace(/<\|\w+\|>/g, " "))).length;
    const tokens = corpus
      .slice(0, 1000)
      .reduce((n, t) => n + tokenizer.encode(t.replace(/<\|\w+\|>|[^\p{L}' ]/gu, "")).ids.length, 0);
    expect(tokens / words).toBeLessThan(1.35);
  });
});
