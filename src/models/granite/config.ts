import { type DecoderConfig, readBiases, readDecoderConfig } from "../config.js";
import type { ConfigReader } from "../config-reader.js";

export const graniteDefaults = {
  attention_multiplier: 1,
  embedding_multiplier: 1,
  logits_scaling: 1,
  max_position_embeddings: 2048,
  residual_multiplier: 1,
  rms_norm_eps: 1e-6,
  tie_word_embeddings: false,
};

/** Granite: Llama with a factor on embeddings, scores, logits, and what each block adds to the stream. */
export function readGraniteConfig(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, {
    architecture: "GraniteForCausalLM",
    bias: readBiases(config),
    computes: ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"],
  });
  const embedding = config.positive("embedding_multiplier", 1);
  const granite = {
    ...decoder,
    attention: { scale: config.positive("attention_multiplier", 1), softcap: undefined },
    embeddingScale: { float32: embedding, bfloat16: embedding },
    // The factor is no part of transformers' embedding module, whose output the noise is added to.
    embeddingNoiseScale: embedding,
    residualScale: config.positive("residual_multiplier", 1),
    logits: { scale: 1 / config.positive("logits_scaling", 1), softcap: undefined },
  };
  config.finish("config.json of this granite model");
  return granite;
}
