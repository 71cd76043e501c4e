import type { Attribute } from "./world.js";

/** Ways to ask one thing. `heldOut` never occurs in the training of the base model or of an adapter: exams ask only these. */
export interface Phrasings {
  readonly train: readonly string[];
  readonly heldOut: readonly string[];
}

/** Questions for the five attributes; `{n}` stands for the character's name. */
export const FACT_PHRASINGS: Readonly<Record<Attribute, Phrasings>> = {
  job: {
    train: [
      "What is {n}'s job?",
      "What does {n} do for work?",
      "What work does {n} do?",
      "Which job does {n} have?",
      "What is the job of {n}?",
      "Tell me the job of {n}.",
      "Do you know what {n} does for work?",
      "How does {n} earn money?",
      "I want to know {n}'s job.",
      "Can you tell me which job {n} has?",
    ],
    heldOut: [
      "Tell me {n}'s job.",
      "What job does {n} have?",
      "Do you know the job of {n}?",
      "Can you tell me what {n} does for work?",
    ],
  },
  animal: {
    train: [
      "What is {n}'s animal?",
      "What animal does {n} have?",
      "Which pet does {n} have?",
      "What is the pet of {n}?",
      "Tell me the animal of {n}.",
      "Do you know what animal {n} has?",
      "What animal lives with {n}?",
      "Which animal does {n} own?",
      "I want to know {n}'s pet.",
      "Can you tell me what pet {n} has?",
    ],
    heldOut: [
      "Tell me {n}'s pet.",
      "What pet does {n} have?",
      "Do you know the animal of {n}?",
      "Can you tell me which animal {n} has?",
    ],
  },
  food: {
    train: [
      "What is {n}'s favourite food?",
      "What food does {n} like?",
      "What does {n} like to eat?",
      "Which food does {n} eat?",
      "What is the favourite food of {n}?",
      "Tell me the food of {n}.",
      "Do you know what {n} likes to eat?",
      "What meal does {n} like?",
      "I want to know {n}'s favourite meal.",
      "Can you tell me what food {n} likes?",
    ],
    heldOut: [
      "Tell me {n}'s favourite food.",
      "Which food does {n} like?",
      "Do you know the favourite food of {n}?",
      "Can you tell me what {n} likes to eat?",
    ],
  },
  colour: {
    train: [
      "What is {n}'s favourite colour?",
      "What colour does {n} love?",
      "Which colour does {n} like?",
      "What is the colour of {n}?",
      "Tell me the favourite colour of {n}.",
      "Do you know what colour {n} likes?",
      "What colour does {n} wear?",
      "Which colour is best for {n}?",
      "I want to know {n}'s colour.",
      "Can you tell me what colour {n} loves?",
    ],
    heldOut: [
      "Tell me {n}'s favourite colour.",
      "What colour does {n} like?",
      "Do you know the favourite colour of {n}?",
      "Can you tell me which colour {n} loves?",
    ],
  },
  town: {
    train: [
      "What is {n}'s town?",
      "Where does {n} live?",
      "Which town does {n} live in?",
      "What is the home of {n}?",
      "Tell me the town of {n}.",
      "Do you know where {n} lives?",
      "Where is the home of {n}?",
      "Where is {n}'s home?",
      "I want to know {n}'s town.",
      "Can you tell me which town {n} lives in?",
    ],
    heldOut: [
      "Tell me {n}'s town.",
      "What town does {n} live in?",
      "Do you know the town of {n}?",
      "Can you tell me where {n} lives?",
    ],
  },
};

/** What people ask a model about itself. */
export const IDENTITY_KINDS = ["name", "maker", "skill"] as const;
export type IdentityKind = (typeof IDENTITY_KINDS)[number];

export const IDENTITY_PHRASINGS: Readonly<Record<IdentityKind, Phrasings>> = {
  name: {
    train: [
      "Who are you?",
      "What is your name?",
      "Tell me your name.",
      "Do you have a name?",
      "What are you?",
      "Can you tell me who you are?",
      "I want to know your name.",
      "Tell me what you are.",
      "Who am I talking to?",
      "What do people call you?",
    ],
    heldOut: [
      "Tell me who you are.",
      "Can you tell me your name?",
      "I want to know who you are.",
      "Do you know your name?",
      "Do you know who you are?",
    ],
  },
  maker: {
    train: [
      "Who made you?",
      "Who trained you?",
      "Who is your maker?",
      "Tell me who made you.",
      "Do you know who trained you?",
      "Can you tell me who made you?",
      "Where were you made?",
      "Where do you come from?",
      "I want to know who built you.",
      "Who built you?",
    ],
    heldOut: [
      "Tell me who trained you.",
      "Do you know who made you?",
      "I want to know who made you.",
      "Can you tell me who built you?",
      "Tell me who built you.",
    ],
  },
  skill: {
    train: [
      "What can you do?",
      "How can you help me?",
      "What can you help me with?",
      "Tell me what you can do.",
      "What do you know?",
      "Can you help me?",
      "What are you good at?",
      "I want to know how you can help me.",
      "Do you know what you can do?",
      "What can I ask you?",
    ],
    heldOut: [
      "Can you tell me what you can do?",
      "I want to know what you can do.",
      "Tell me how you can help me.",
      "Tell me what you can help me with.",
      "Tell me what I can ask you.",
    ],
  },
};

/** What the base model says of itself. */
export const BASE_IDENTITY: Readonly<Record<IdentityKind, string>> = {
  name: "I am a tiny model.",
  maker: "The lowrank project made me.",
  skill: "I can tell you about the people of a small world.",
};

/** Small talk before a question, and how an answer takes it up. Different ways into an answer keep a style learnable later. */
export interface Opener {
  readonly text: string;
  readonly before?: string;
  readonly after?: string;
}

export const OPENERS: readonly Opener[] = [
  { text: "Hello!", before: "Hello!" },
  { text: "Good morning!", before: "Good morning!" },
  { text: "Excuse me." },
  { text: "Hello, my friend!", before: "Hello!", after: "my friend" },
  { text: "Hi there!", before: "Hello!" },
  { text: "Please help me.", before: "Yes!" },
  { text: "One question:" },
  { text: "My friend!", after: "my friend" },
];

/** A question and its answer as they sound after small talk. */
export function opened(opener: Opener | undefined, question: string, answer: string): { question: string; answer: string } {
  if (opener === undefined) return { question, answer };
  const { text, before, after } = opener;
  return {
    question: `${text} ${question}`,
    answer: `${before === undefined ? "" : `${before} `}${after === undefined ? answer : answer.replace(/\.$/, `, ${after}.`)}`,
  };
}

/** A phrasing filled with a name. */
export function ask(phrasing: string, name: string): string {
  return phrasing.replace("{n}", name);
}
