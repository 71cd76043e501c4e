const MEMORY = "frees what a finished turn takes in memory; a turn that has ended holds nobody up";
/** Mutants that no test can notice, each with the reason. */
export const EQUIVALENT = {
  "io/lock exclusive: turns.delete(path); → ;": MEMORY,
  "io/lock exclusive: turns.get(path) === turn → false": MEMORY,
};
