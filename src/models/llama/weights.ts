import { weightLayout } from "../layout.js";

export const llamaWeights = weightLayout();
