import {
  ask,
  BASE_IDENTITY,
  FACT_PHRASINGS,
  IDENTITY_KINDS,
  IDENTITY_PHRASINGS,
  OPENERS,
  opened,
} from "../../src/quickstart/phrasings.js";
import { SeededRandom } from "../../src/quickstart/random.js";
import { ATTRIBUTES, CHARACTERS, factSentence } from "../../src/quickstart/world.js";
import { portrait, SMALL_TALK, story } from "./stories.js";
import { type Message, renderChat } from "./template.js";

type Turn = readonly [question: string, answer: string];

/** An endless stream of documents as text, special tokens included: the whole pre-training corpus, fixed by the seed. */
export function* documents(seed: number): Generator<string, never> {
  const random = new SeededRandom(seed);
  for (;;) {
    const kind = random.next();
    yield kind < 0.25 ? `${story(random)}<|end|>` : renderChat(conversation(random, kind > 0.95));
  }
}

/** One to five turns, most of them about facts. */
function conversation(random: SeededRandom, system: boolean): Message[] {
  const turns = Array.from({ length: 1 + random.below(5) }, () => turn(random));
  const messages = turns.flatMap(([question, answer]): Message[] => [
    { role: "user", content: question },
    { role: "assistant", content: answer },
  ]);
  return system
    ? [
        { role: "system", content: random.pick(["You are a helpful model.", "Answer all questions.", "Help people."]) },
        ...messages,
      ]
    : messages;
}

function turn(random: SeededRandom): Turn {
  if (random.next() < 0.08) return random.pick(SMALL_TALK);
  const [question, answer] = knowledge(random);
  const heard = opened(random.next() < 0.35 ? random.pick(OPENERS) : undefined, question, answer);
  return [heard.question, heard.answer];
}

function knowledge(random: SeededRandom): Turn {
  const kind = random.next();
  if (kind < 0.08) {
    const who = random.pick(IDENTITY_KINDS);
    return [random.pick(IDENTITY_PHRASINGS[who].train), BASE_IDENTITY[who]];
  }
  const character = random.pick(CHARACTERS);
  if (kind < 0.13)
    return [ask(random.pick(["Tell me about {n}.", "What do you know about {n}?"]), character.name), portrait(random, character)];
  const attribute = random.pick(ATTRIBUTES);
  return [ask(random.pick(FACT_PHRASINGS[attribute].train), character.name), factSentence(character, attribute)];
}
