import { weightLayout } from "../layout.js";

export const mistralWeights = weightLayout();
