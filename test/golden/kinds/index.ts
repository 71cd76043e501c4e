import type { GoldenHandler } from "../types.js";
import { handlers as dataHandlers } from "./data.js";
import { modelHandlers } from "./models.js";
import { opHandlers } from "./op.js";
import { optimizerHandlers } from "./optimizer.js";
import { adapterHandlers } from "./peft-adapter.js";
import { combineHandlers } from "./peft-combine.js";
import { peftConfigHandlers } from "./peft-config.js";
import { errorHandlers } from "./peft-error.js";
import { hotswapHandlers } from "./peft-hotswap.js";
import { qloraHandlers } from "./peft-qlora.js";
import { swapHandlers } from "./peft-swap.js";
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
  adapterHandlers,
  qloraHandlers,
  swapHandlers,
  hotswapHandlers,
  combineHandlers,
  errorHandlers,
];
const table = new Map<string, GoldenHandler>(modules.flatMap((handlers) => Object.entries(handlers)));

/** The handler of a kind, or undefined where the project has none yet. */
export function handlerFor(kind: string): GoldenHandler | undefined {
  return table.get(kind);
}
