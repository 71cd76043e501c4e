import { roundToBfloat16 } from "../../half.js";
import {
  type DecoderConfig,
  type LayerConfig,
  optionalPositive,
  readAttentionBias,
  readDecoderConfig,
  readLayers,
  readWindow,
} from "../config.js";
import type { ConfigReader } from "../config-reader.js";

export const gemma2Defaults = {
  attn_logit_softcapping: 50,
  final_logit_softcapping: 30,
  head_dim: 256,
  hidden_activation: "gelu_pytorch_tanh",
  max_position_embeddings: 8192,
  num_key_value_heads: 4,
  query_pre_attn_scalar: 256,
  rms_norm_eps: 1e-6,
  sliding_window: 4096,
  tie_word_embeddings: true,
};

/** Gemma 2: capped scores and logits, GELU, norms that count from one, and a window in every other layer. */
export function readGemma2Config(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, {
    architecture: "Gemma2ForCausalLM",
    bias: readAttentionBias(config),
    activationKey: "hidden_activation",
    computes: ["attn_logit_softcapping", "final_logit_softcapping", "layer_types"],
  });
  const layers = readGemmaLayers(config, decoder.numLayers, 2);
  const gemma = readGemma(config, decoder.hiddenSize, optionalPositive(config, "attn_logit_softcapping"));
  config.finish("config.json of this gemma2 model");
  return { ...decoder, ...gemma, layers };
}

/** What Gemma 2 and 3 share. @param softcap of attention scores. */
export function readGemma(config: ConfigReader, hiddenSize: number, softcap?: number) {
  const scale = Math.fround(Math.sqrt(hiddenSize));
  // Files often give both; where they differ the user is told that this one has no effect.
  if (config.json.hidden_act === config.json.hidden_activation) config.value("hidden_act");
  return {
    normUnitOffset: true,
    attention: { scale: config.positive("query_pre_attn_scalar", 256) ** -0.5, softcap },
    // transformers rounds it to the dtype of the embedding.
    embeddingScale: { float32: scale, bfloat16: roundToBfloat16(scale) },
    logits: { scale: 1, softcap: optionalPositive(config, "final_logit_softcapping") },
  };
}

/** Layers with the window, but for each last of `pattern` where `layer_types` does not say otherwise. */
export function readGemmaLayers(config: ConfigReader, count: number, pattern: number): LayerConfig[] {
  return readLayers(config, count, readWindow(config), (i) => ((i + 1) % pattern ? "sliding_attention" : "full_attention"));
}
