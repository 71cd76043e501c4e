import { InvalidArgumentError } from "commander";

/** Reads a whole number from `low` on for commander. */
export function integerFrom(low: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isSafeInteger(value) || value < low)
      throw new InvalidArgumentError(`expected an integer from ${low} on`);
    return value;
  };
}

/** Reads a number from `low` on for commander. */
export function numberFrom(low: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value < low)
      throw new InvalidArgumentError(`expected a number from ${low} on`);
    return value;
  };
}
