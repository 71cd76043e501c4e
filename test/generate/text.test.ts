import fc from "fast-check";
import { expect, it } from "vitest";
import { TextEmitter } from "../../src/generate/text.js";

/** A decoder whose token ids are character codes. */
const characters = { push: (id: number) => String.fromCharCode(id), flush: () => "" };

function run(text: string, stops: string[]): { pieces: string[]; stopped: boolean } {
  const emitter = new TextEmitter(characters, stops);
  const pieces: string[] = [];
  for (let i = 0; i < text.length; i++) {
    const { text: piece, stopped } = emitter.push(text.charCodeAt(i), i === text.length - 1);
    pieces.push(piece);
    if (stopped) return { pieces, stopped };
  }
  return { pieces, stopped: false };
}

it("ends before the first stop text, wherever its pieces fall", () => {
  expect(run("Hello\nUser: you", ["\nUser:", "###"])).toEqual({ pieces: [..."Hello", "", "", "", "", "", ""], stopped: true });
});

it("gives back what only looked like a stop text", () => {
  expect(run("a#b##", ["###"]).pieces).toEqual(["a", "", "#b", "", "##"]);
});

it("equals cutting the whole text at the first stop text", () => {
  const small = fc.string({ unit: fc.constantFrom("a", "b"), maxLength: 30 });
  const stop = fc.string({ unit: fc.constantFrom("a", "b"), minLength: 1, maxLength: 4 });
  fc.assert(
    fc.property(small, fc.array(stop, { maxLength: 3 }), (text, stops) => {
      // The stop text that is complete first ends the generation; of those the one that begins first is cut off.
      let expected = text;
      for (let end = 1; end <= text.length; end++) {
        const at = stops.map((s) => text.slice(0, end).indexOf(s)).filter((i) => i >= 0);
        if (at.length > 0) {
          expected = text.slice(0, Math.min(...at));
          break;
        }
      }
      expect(run(text, stops).pieces.join("")).toBe(expected);
    }),
  );
});
