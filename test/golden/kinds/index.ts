import type { GoldenHandler } from "../types.js";
import { peftConfigHandlers } from "./peft-config.js";
import { samplingHandlers } from "./sampling.js";
import { scheduleHandlers } from "./schedules.js";
import { optimizerHandlers } from "./optimizer.js";
import { quantHandlers } from "./quant.js";

const modules: Record<string, GoldenHandler>[] = [samplingHandlers, optimizerHandlers, quantHandlers, peftConfigHandlers, scheduleHandlers];
const table = new Map<string, GoldenHandler>(modules.flatMap((handlers) => Object.entries(handlers)));

/** The handler of a kind, or undefined where the project has none yet. */
export function handlerFor(kind: string): GoldenHandler | undefined {
  return table.get(kind);
}
