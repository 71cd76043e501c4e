import { weightLayout } from "../layout.js";

export const smollm3Weights = weightLayout();
