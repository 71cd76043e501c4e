const SEED = 1;
/** Documents of the corpus, each read once: 3.3 million tokens. */
const DOCUMENTS = 60_000;
const DOCUMENTS_PER_STEP = 40;

export const TOTAL_STEPS = DOCUMENTS / DOCUMENTS_PER_STEP;

/** How the embedded model is trained. Found with a stand-in: 2 million tokens are enough to know every fact, the rest is margin. */
export const RECIPE = {
  seed: SEED,
  /** The first documents train the tokenizer. */
  tokenizerDocuments: 20_000,
  /** Share of the facts that must be known on unseen phrasings, in float32 and in NF4. */
  passMark: 0.97,
  args: {
    seed: SEED,
    perDeviceTrainBatchSize: DOCUMENTS_PER_STEP,
    gradientAccumulationSteps: 1,
    maxSteps: TOTAL_STEPS,
    disableShuffling: true,
    learningRate: 3e-3,
    lrSchedulerType: "cosine",
    warmupSteps: 0.05,
    adamBeta2: 0.98,
    maxGradNorm: 1,
    gradientCheckpointing: false,
  },
} as const;
