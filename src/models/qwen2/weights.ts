import { weightLayout } from "../layout.js";

/** Biases on q, k and v come from the config. */
export const qwen2Weights = weightLayout();
