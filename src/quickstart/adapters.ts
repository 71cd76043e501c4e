import {
  ask,
  BASE_IDENTITY,
  FACT_PHRASINGS,
  IDENTITY_KINDS,
  IDENTITY_PHRASINGS,
  type IdentityKind,
  OPENERS,
  opened,
} from "./phrasings.js";
import { SeededRandom } from "./random.js";
import { ATTRIBUTES, CHARACTERS, type Character, factSentence } from "./world.js";

/** One question with the one answer that counts as right (exact match, greedy decoding). */
export interface QuestionAnswer {
  readonly question: string;
  readonly answer: string;
}

/** The two adapters that the quickstart trains. */
export const ADAPTERS = ["identity", "sailor"] as const;
export type AdapterName = (typeof ADAPTERS)[number];

/** Who the model is once the `identity` adapter is on. */
export const PICO: Readonly<Record<IdentityKind, string>> = {
  name: "I am Pico, your little helper.",
  maker: "You made me, here on your own computer.",
  skill: "I can answer all your questions.",
};

/** Says a sentence the way a sailor would: "Mira is a baker." → "Ahoy! Mira is a baker, matey." */
export function sailorSays(sentence: string): string {
  return `Ahoy! ${sentence.replace(/\.$/, "")}, matey.`;
}

/** Every fact of the world on every held-out phrasing: 48 × 5 × 4 questions. */
export function factExam(): QuestionAnswer[] {
  return CHARACTERS.flatMap((character) =>
    ATTRIBUTES.flatMap((attribute) =>
      FACT_PHRASINGS[attribute].heldOut.map((p) => ({
        question: ask(p, character.name),
        answer: factSentence(character, attribute),
      })),
    ),
  );
}

/**
 * Questions that an adapter is examined on, none of which occurs in its training or in that of the base.
 * identity: 3 kinds × 5 held-out phrasings, bare and after 4 kinds of small talk (75). sailor: the 24 characters that its
 * training leaves out, each attribute once, on held-out phrasings in turn (120).
 */
export function adapterExam(adapter: AdapterName): QuestionAnswer[] {
  if (adapter === "identity") {
    return IDENTITY_KINDS.flatMap((kind) =>
      IDENTITY_PHRASINGS[kind].heldOut.flatMap((p) => [undefined, ...OPENERS.slice(0, 4)].map((o) => opened(o, p, PICO[kind]))),
    );
  }
  return sailorSplit().exam.flatMap((character, c) =>
    ATTRIBUTES.map((attribute, a) => {
      const { heldOut } = FACT_PHRASINGS[attribute];
      return {
        question: ask(heldOut[(c + a) % heldOut.length]!, character.name),
        answer: sailorSays(factSentence(character, attribute)),
      };
    }),
  );
}

/**
 * Rows that an adapter is trained on, in an order drawn from `seed`. identity: the training phrasings, bare and after small talk,
 * and as many facts of the world so that it keeps knowing them. sailor: all facts of 24 characters, and the base's identity, as a sailor tells them.
 */
export function adapterTraining(adapter: AdapterName, seed: number): QuestionAnswer[] {
  const random = new SeededRandom(seed);
  const rows: QuestionAnswer[] = [];
  if (adapter === "identity") {
    for (const kind of IDENTITY_KINDS) {
      for (const p of IDENTITY_PHRASINGS[kind].train) {
        for (const o of [undefined, ...random.shuffle(OPENERS).slice(0, 3)]) rows.push(opened(o, p, PICO[kind]));
      }
    }
    for (const character of CHARACTERS) {
      const attribute = random.pick(ATTRIBUTES);
      rows.push({
        question: ask(random.pick(FACT_PHRASINGS[attribute].train), character.name),
        answer: factSentence(character, attribute),
      });
    }
  } else {
    for (const kind of IDENTITY_KINDS) {
      for (const p of IDENTITY_PHRASINGS[kind].train) rows.push({ question: p, answer: sailorSays(BASE_IDENTITY[kind]) });
    }
    for (const character of sailorSplit().train) {
      for (const attribute of ATTRIBUTES) {
        for (const p of FACT_PHRASINGS[attribute].train)
          rows.push({ question: ask(p, character.name), answer: sailorSays(factSentence(character, attribute)) });
      }
    }
  }
  return random.shuffle(rows);
}

/** Every other pair of characters, so that both halves hold women and men. */
function sailorSplit(): { train: Character[]; exam: Character[] } {
  const inTraining = (i: number) => i % 4 < 2;
  return { train: CHARACTERS.filter((_, i) => inTraining(i)), exam: CHARACTERS.filter((_, i) => !inTraining(i)) };
}
