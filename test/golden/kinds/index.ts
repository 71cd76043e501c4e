import type { GoldenHandler } from "../types.js";
import { samplingHandlers } from "./sampling.js";

const modules: Record<string, GoldenHandler>[] = [samplingHandlers];
const table = new Map<string, GoldenHandler>(modules.flatMap((handlers) => Object.entries(handlers)));

/** The handler of a kind, or undefined where the project has none yet. */
export function handlerFor(kind: string): GoldenHandler | undefined {
  return table.get(kind);
}
