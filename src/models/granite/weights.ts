import { weightLayout } from "../layout.js";

export const graniteWeights = weightLayout();
