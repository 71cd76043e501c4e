import { describe, expect, it } from "vitest";
import { ADAPTERS, adapterExam, adapterTraining, factExam, PICO } from "../../src/quickstart/adapters.js";
import {
  ask,
  FACT_PHRASINGS,
  IDENTITY_KINDS,
  IDENTITY_PHRASINGS,
  type IdentityKind,
  OPENERS,
  opened,
  type Phrasings,
} from "../../src/quickstart/phrasings.js";
import { SeededRandom } from "../../src/quickstart/random.js";
import { ATTRIBUTES, CHARACTERS, factSentence } from "../../src/quickstart/world.js";

const words = (text: string): string[] => text.match(/[\p{L}']+/gu) ?? [];
const allPhrasings: [string, Phrasings][] = [...Object.entries(FACT_PHRASINGS), ...Object.entries(IDENTITY_PHRASINGS)];

describe("the small world", () => {
  it("has 48 characters with five facts each, every value shared by three or four", () => {
    expect(new Set(CHARACTERS.map((c) => c.name)).size).toBe(48);
    for (const attribute of ATTRIBUTES) {
      const counts = new Map<string, number>();
      for (const { facts } of CHARACTERS) counts.set(facts[attribute], (counts.get(facts[attribute]) ?? 0) + 1);
      for (const n of counts.values()) expect([3, 4]).toContain(n);
    }
  });

  it("states a fact in one sentence", () => {
    const mira = CHARACTERS[0]!;
    expect(factSentence(mira, "job")).toBe(`Mira is a ${mira.facts.job}.`);
    expect(factSentence(mira, "town", "She")).toBe(`She lives in ${mira.facts.town}.`);
  });

  it("draws the numbers of mulberry32", () => {
    // First values of the published generator for seed 42, as unsigned 32-bit integers.
    const random = new SeededRandom(42);
    expect([0, 1, 2].map(() => Math.round(random.next() * 2 ** 32))).toEqual([2581720956, 1925393290, 3661312704]);
  });
});

describe("the phrasings", () => {
  it.each(allPhrasings)(
    "%s: at least twelve, at least four held out, whose words are all trained elsewhere",
    (_, { train, heldOut }) => {
      expect(new Set([...train, ...heldOut]).size).toBe(train.length + heldOut.length);
      expect(train.length + heldOut.length).toBeGreaterThanOrEqual(12);
      expect(heldOut.length).toBeGreaterThanOrEqual(4);
      const trained = new Set(allPhrasings.flatMap(([, p]) => p.train.flatMap(words)));
      for (const question of heldOut) expect(words(question).filter((w) => !trained.has(w))).toEqual([]);
    },
  );

  it("means one attribute by one question", () => {
    const questions = allPhrasings.flatMap(([, p]) => [...p.train, ...p.heldOut]);
    expect(new Set(questions).size).toBe(questions.length);
  });
});

describe("the exams", () => {
  it("asks enough", () => {
    expect(factExam()).toHaveLength(48 * 5 * 4);
    expect(adapterExam("identity").length).toBeGreaterThanOrEqual(60);
    expect(adapterExam("sailor").length).toBeGreaterThanOrEqual(120);
  });

  it.each(ADAPTERS)("%s: no exam question is trained, and no question is asked twice", (adapter) => {
    const exam = adapterExam(adapter).map((row) => row.question);
    expect(new Set(exam).size).toBe(exam.length);
    const trained = adapterTraining(adapter, 7).map((row) => row.question);
    for (const p of allPhrasings.flatMap(([, { heldOut }]) => heldOut)) {
      for (const c of CHARACTERS) expect(trained.some((q) => q.endsWith(ask(p, c.name)))).toBe(false);
    }
  });

  it("sailor: the 24 characters of the exam are absent from the training", () => {
    const named = (rows: { question: string }[]) =>
      new Set(CHARACTERS.filter(({ name }) => rows.some((r) => words(r.question.replace("'s", "")).includes(name))));
    const exam = named(adapterExam("sailor"));
    const training = named(adapterTraining("sailor", 7));
    expect([exam.size, training.size]).toEqual([24, 24]);
    for (const c of exam) expect(training.has(c)).toBe(false);
  });

  it("identity: every kind of question is asked equally often", () => {
    const exam = adapterExam("identity");
    const stem = (kind: IdentityKind) => PICO[kind].replace(/\.$/, "");
    expect(IDENTITY_KINDS.map((kind) => exam.filter((row) => row.answer.includes(stem(kind))).length)).toEqual([25, 25, 25]);
  });

  it("takes small talk up in the answer", () => {
    const friend = OPENERS.find((o) => o.text === "Hello, my friend!");
    expect(opened(friend, "Who are you?", "I am Pico.")).toEqual({
      question: "Hello, my friend! Who are you?",
      answer: "Hello! I am Pico, my friend.",
    });
    expect(opened(undefined, "Who are you?", "I am Pico.")).toEqual({ question: "Who are you?", answer: "I am Pico." });
  });

  it("draws the same training rows from the same seed", () => {
    expect(adapterTraining("sailor", 3)).toEqual(adapterTraining("sailor", 3));
    expect(adapterTraining("sailor", 3)).not.toEqual(adapterTraining("sailor", 4));
  });
});
