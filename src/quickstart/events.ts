import type { AdapterName } from "./adapters.js";

/** Who answers: the model without an adapter, or with one of the two. */
export type Variant = "base" | AdapterName;

/** Exact matches of one variant on one exam. */
export interface Score {
  readonly exam: AdapterName;
  readonly variant: Variant;
  readonly right: number;
  readonly total: number;
}

/** One question and what each variant answers. */
export interface Comparison {
  readonly question: string;
  readonly answers: Readonly<Record<Variant, string>>;
}

/** What `runQuickstart` reports and `lowrank quickstart --json` prints, one object an event. Times are in seconds unless named otherwise. */
export type QuickstartEvent =
  | { type: "start"; version: string; node: string; isa: string; threads: number; seed: number; model: string; out: string }
  | { type: "load"; done: number; total: number }
  /** `bytes`: device memory that the loaded model holds. */
  | { type: "loaded"; parameters: number; bytes: number; seconds: number }
  /** What the base answers before an adapter is trained, and what the adapter answers after. */
  | { type: "answer"; adapter: AdapterName; when: "before" | "after"; question: string; answer: string }
  | {
      type: "train";
      adapter: AdapterName;
      step: number;
      totalSteps: number;
      loss: number;
      tokensPerSecond: number;
      etaSeconds: number;
    }
  | { type: "trained"; adapter: AdapterName; parameters: number; examples: number; loss: number; seconds: number }
  | { type: "exam"; exam: AdapterName; variant: Variant; done: number; total: number }
  | ({ type: "score" } & Score)
  /** `swapMicroseconds`: median time that `setAdapter` takes. */
  | { type: "swapped"; comparisons: readonly Comparison[]; swaps: number; swapMicroseconds: number }
  /** Logits before any adapter existed and now with the adapters off, compared byte by byte. */
  | { type: "base"; equal: boolean; logits: number }
  | { type: "saved"; what: "adapters" | "merged"; folder: string }
  /** Answers of the merged model: how many are the same after saving and loading again, and the same as the adapter gave unmerged. */
  | { type: "merged"; adapter: AdapterName; total: number; sameAfterLoading: number; sameAsAdapter: number; right: number }
  | ({ type: "done" } & QuickstartResult);

export interface QuickstartResult {
  readonly passed: boolean;
  /** One sentence for each goal that was missed, with its figure. */
  readonly failures: readonly string[];
  readonly scores: readonly Score[];
  readonly seconds: number;
  readonly folder: string;
}
