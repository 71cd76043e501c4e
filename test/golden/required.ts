/** Kinds that tests beside the library's code read. */
const ELSEWHERE = ["yaml"];

/** Whether a kind needs data that a clone may lack: its cases are skipped there, saying so. */
export const mayBeAbsent = (kind: string): boolean => kind.startsWith("real_") || kind === "convert_demo";

/** Whether `npm test` fails unless every case of the kind in test/golden/cases is computed, and right, on every variant of the CPU. */
export const mustBeOk = (kind: string): boolean => !ELSEWHERE.includes(kind) && !mayBeAbsent(kind);
