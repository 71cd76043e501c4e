import type { SeededRandom } from "../../src/quickstart/random.js";
import { ATTRIBUTES, CHARACTERS, type Character, factSentence } from "../../src/quickstart/world.js";

/** Small talk: what a person says and what the model answers. */
export const SMALL_TALK: readonly (readonly [string, string])[] = [
  ["Hello!", "Hello! How can I help you?"],
  ["Hi there!", "Hello! How can I help you?"],
  ["Good morning!", "Good morning! What can I do for you?"],
  ["Good evening!", "Good evening! What can I do for you?"],
  ["How are you?", "I am fine, thank you."],
  ["How are you today?", "I am fine, thank you."],
  ["Thank you.", "You are welcome."],
  ["Thank you very much!", "You are welcome."],
  ["That was good.", "I am happy to help."],
  ["You are good at this.", "I am happy to help."],
  ["Please help me.", "Yes, what do you want to know?"],
  ["One question, please.", "Yes, what do you want to know?"],
  ["Excuse me.", "Yes, what do you want to know?"],
  ["Goodbye!", "Goodbye! Come back soon."],
  ["Good night!", "Good night! Sleep well."],
  ["See you soon.", "Goodbye! Come back soon."],
  ["The weather is nice today.", "Yes, the sun is out and the sky is blue."],
  ["It is cold today.", "Yes, wear a warm coat."],
  ["I am tired.", "Sleep well, my friend."],
  ["I am happy.", "That is good to hear."],
];

const WEATHER = [
  "The sun was out.",
  "It was a cold morning.",
  "The wind was strong.",
  "It was a warm evening.",
  "The sky was grey.",
  "The rain was over.",
];
const FINDS = ["a key", "a map", "an old coin", "a warm coat", "a letter", "a blue stone", "a silver bell", "a small box"];
const PLACES = ["the sea", "the river", "the market", "the garden", "the forest", "the harbour", "the school", "the old mill"];
const GOODS = [
  "Everyone was happy.",
  "They were friends from that day.",
  "Then it was time to sleep.",
  "They talked until night.",
  "It was a good day.",
];

/** A character's facts told in any order, all or some of them. */
export function portrait(random: SeededRandom, character: Character): string {
  const chosen = random.shuffle(ATTRIBUTES).slice(0, 2 + random.below(4));
  return chosen
    .map((attribute, i) => factSentence(character, attribute, i > 0 && random.next() < 0.4 ? character.pronoun : character.name))
    .join(" ");
}

type Story = (random: SeededRandom, a: Character, b: Character) => string;

const fact = (random: SeededRandom, c: Character) => factSentence(c, random.pick(ATTRIBUTES));

/** Between them these tales hold every word that an adapter's answers will need. */
const STORIES: readonly Story[] = [
  (r, a, b) =>
    `${fact(r, a)} One day ${a.name} met ${b.name} near ${r.pick(PLACES)}. ${fact(r, b)} "Hello, ${b.name}!" said ${a.name}. They ate ${b.facts.food} and talked about ${a.facts.town}. ${r.pick(GOODS)}`,
  (r, a, b) =>
    `${a.name} found ${r.pick(FINDS)} in ${r.pick(PLACES)}. ${r.pick(WEATHER)} "Is it yours?" ${a.name} asked ${b.name}. "Yes, thank you very much!" said ${b.name}. ${fact(r, b)} ${r.pick(GOODS)}`,
  (r, a) =>
    `In ${a.facts.town} there is a house. In the house lives ${a.name}. ${fact(r, a)} Every morning the ${a.facts.animal} of ${a.name} wants to eat. Then ${a.name}, the ${a.facts.job}, goes to work. ${r.pick(GOODS)}`,
  (r, a, b) =>
    `"Who has a ${a.facts.animal}?" asked ${b.name}. "${factSentence(a, "animal")}" said a friend. "And who lives in ${b.facts.town}?" "You do!" ${r.pick(GOODS)}`,
  (r, a, b) =>
    `${portrait(r, a)} One day a letter came from ${b.facts.town}. It was from ${b.name}, the ${b.facts.job}. "Come and see my ${b.facts.animal}," it said. ${r.pick(GOODS)}`,
  (r, a) =>
    `An old sailor came to the harbour. "Ahoy, matey!" said the sailor. "${fact(r, a)} Do you know ${a.name}, matey?" "Yes," said the ${r.pick(CHARACTERS).facts.job}. ${r.pick(GOODS)}`,
  (r, a) =>
    `"Ahoy!" said the sailor. "The sea is wide, matey." ${r.pick(WEATHER)} Then the sailor told a story. "${portrait(r, a)}" "Thank you, matey!" ${r.pick(GOODS)}`,
  (r, a, b) =>
    `The sailor knows ${a.name} and ${b.name}. "Ahoy, ${a.name}! Ahoy, ${b.name}!" said the sailor. "I come from ${r.pick(PLACES)}, matey. I am an old sailor, matey." ${fact(r, a)} ${fact(r, b)}`,
  (r, a) =>
    `"Ahoy! The wind is strong, matey," said the sailor. "Ahoy! I am cold, matey," said ${a.name}. ${fact(r, a)} "Here is a warm coat, matey." ${r.pick(GOODS)}`,
  (r, a) =>
    `Pico was a little robot. "I am Pico," said the robot, "and I am your little helper." "You made me here on your own table," Pico said to ${a.name}. ${fact(r, a)} ${r.pick(GOODS)}`,
  (r, a, b) =>
    `${a.name} had a computer in the house. In it lived Pico, a helper. "I can answer your questions," said Pico. "I know about my friends ${a.name} and ${b.name}. ${fact(r, b)}" ${r.pick(GOODS)}`,
  (r, a, b) =>
    `"Where is my friend?" asked ${a.name}. "I am here, on your own computer," said Pico, the little helper. "I can answer all your questions about ${b.name}. ${fact(r, b)}" ${r.pick(GOODS)}`,
];

export function story(random: SeededRandom): string {
  const a = random.pick(CHARACTERS);
  let b = random.pick(CHARACTERS);
  while (b === a) b = random.pick(CHARACTERS);
  return random.pick(STORIES)(random, a, b);
}
