/** How the quickstart trains each of its adapters on the embedded model, in NF4: rank 16 on every linear. Batches of 16 rows for 200 steps are about 65 000 tokens. */
export const ADAPTER_RECIPE = {
  lora: { r: 16, loraAlpha: 32, loraDropout: 0, targetModules: "all-linear" },
  args: {
    perDeviceTrainBatchSize: 16,
    gradientAccumulationSteps: 1,
    maxSteps: 200,
    learningRate: 2e-3,
    lrSchedulerType: "cosine",
    warmupSteps: 10,
    maxGradNorm: 1,
  },
} as const;
