import type { GoldenHandler } from "../types.js";
import { handlers as dataHandlers } from "./data.js";
import { modelHandlers } from "./models.js";
import { opHandlers } from "./op.js";
import { optimizerHandlers } from "./optimizer.js";
import { peftHandlers } from "./peft.js";
import { peftConfigHandlers } from "./peft-config.js";
import { quantHandlers } from "./quant.js";
import { realHandlers } from "./real.js";
import { samplingHandlers } from "./sampling.js";
import { scheduleHandlers } from "./schedules.js";
import { handlers as textHandlers } from "./text.js";
import { trainHandlers } from "./train.js";
import { handlers as trainDataHandlers } from "./train-data.js";

const modules: Record<string, GoldenHandler>[] = [
  textHandlers,
  dataHandlers,
  trainDataHandlers,
  samplingHandlers,
  modelHandlers,
  realHandlers,
  opHandlers,
  optimizerHandlers,
  quantHandlers,
  peftConfigHandlers,
  scheduleHandlers,
  trainHandlers,
  peftHandlers,
];
const table = new Map<string, GoldenHandler>(modules.flatMap((handlers) => Object.entries(handlers)));

/** The handler of a kind, or undefined where the project has none yet. */
export function handlerFor(kind: string): GoldenHandler | undefined {
  return table.get(kind);
}
