import { SeededRandom } from "./random.js";

/** What is known of a character of the embedded model's small world. */
export const ATTRIBUTES = ["job", "animal", "food", "colour", "town"] as const;
export type Attribute = (typeof ATTRIBUTES)[number];

export interface Character {
  readonly name: string;
  readonly pronoun: "She" | "He";
  readonly facts: Readonly<Record<Attribute, string>>;
}

/** Women and men alternate. */
const NAMES = [
  ..."Mira Otto Lena Hugo Nora Felix Ida Oscar Clara Bruno Ella Max Rosa Theo Greta Jonas".split(" "),
  ..."Vera Emil Alma Leo Stella Karl Wanda Paul Tilda Simon Martha Victor Ruth Anton Lucy Frank".split(" "),
  ..."Olga Henry Daisy Walter Flora Boris Edith Toby Helga Ralph Sonja Peter Ingrid Marco Pearl Nils".split(" "),
];

const VALUES: Readonly<Record<Attribute, readonly string[]>> = {
  job: "baker teacher doctor farmer painter singer driver gardener carpenter fisher nurse writer pilot tailor miller judge".split(
    " ",
  ),
  animal: "cat dog horse goat parrot rabbit duck sheep pony hamster turtle goose mouse pig donkey fox".split(" "),
  food: "soup bread cheese rice apples fish honey beans cake noodles plums salad nuts pears carrots grapes".split(" "),
  colour: "red blue green yellow black white brown purple orange pink grey gold".split(" "),
  town: "Oakton Millford Redhill Seaside Northgate Stonebridge Greenfield Lakeview Foxwood Sandport Windham Elmstead".split(" "),
};

/** The 48 characters. Every value of an attribute belongs to three or four of them; the draw is fixed. */
export const CHARACTERS: readonly Character[] = buildWorld(20_24);

function buildWorld(seed: number): Character[] {
  const random = new SeededRandom(seed);
  const drawn = {} as Record<Attribute, string[]>;
  for (const attribute of ATTRIBUTES) {
    const values = VALUES[attribute];
    drawn[attribute] = random.shuffle(NAMES.map((_, i) => values[i % values.length]!));
  }
  return NAMES.map((name, i) => ({
    name,
    pronoun: i % 2 === 0 ? "She" : "He",
    facts: Object.fromEntries(ATTRIBUTES.map((a) => [a, drawn[a]![i]!])) as Record<Attribute, string>,
  }));
}

/** The one sentence that states a fact, which is also the answer to every question for it. */
export function factSentence(character: Character, attribute: Attribute, subject: string = character.name): string {
  const value = character.facts[attribute];
  switch (attribute) {
    case "job":
      return `${subject} is a ${value}.`;
    case "animal":
      return `${subject} has a ${value}.`;
    case "food":
      return `${subject} likes to eat ${value}.`;
    case "colour":
      return `${subject} loves the colour ${value}.`;
    case "town":
      return `${subject} lives in ${value}.`;
  }
}
