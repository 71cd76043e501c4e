import { type DecoderConfig, readAttentionBias, readDecoderConfig } from "../config.js";
import type { ConfigReader } from "../config-reader.js";
import { gemma2Defaults, readGemma, readGemmaLayers } from "../gemma2/config.js";
import { type RopeParameters, readRope } from "../rope.js";

const { attn_logit_softcapping: _scores, final_logit_softcapping: _logits, ...shared } = gemma2Defaults;

export const gemma3TextDefaults = {
  ...shared,
  max_position_embeddings: 131072,
  rope_local_base_freq: 10000,
  rope_theta: 1e6,
  sliding_window_pattern: 6,
};

/** Gemma 3's text model: Gemma 2 with a norm over each head of q and k in the place of capped scores, and a rope of their own for layers with a window. */
export function readGemma3TextConfig(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, {
    architecture: "Gemma3ForCausalLM",
    bias: readAttentionBias(config),
    activationKey: "hidden_activation",
    // transformers reads attn_logit_softcapping here and does not apply it.
    computes: ["attn_logit_softcapping", "final_logit_softcapping", "layer_types"],
    ropes: (headDim, maxPositions) => readGemma3Ropes(config, headDim, maxPositions),
  });
  const pattern = config.size("sliding_window_pattern", 6, 4096);
  const layers = readGemmaLayers(config, decoder.numLayers, pattern).map(({ window }) => {
    return { window, rope: window === undefined ? 0 : 1 };
  });
  const gemma = readGemma(config, decoder.hiddenSize);
  config.finish("config.json of this gemma3_text model");
  return { ...decoder, ...gemma, layers };
}

/** That of full layers, then that of layers with a window. In the keys of transformers 4, `rope_scaling` is of the first alone. */
function readGemma3Ropes(config: ConfigReader, headDim: number, maxPositions: number): RopeParameters[] {
  const both = config.object("rope_parameters");
  if (both.has("rope_type") || both.has("rope_theta")) config.unsupported("rope_parameters", "one rope for all layers");
  const context = (theta: () => number) => ({ headDim, maxPositions, theta });
  const scaled = config.has("rope_scaling");
  const full = scaled ? config.object("rope_scaling") : both.object("full_attention");
  const theta = () => config.positive("rope_theta", 1e6);
  const fullTheta = scaled ? () => both.object("full_attention").positive("rope_theta", theta()) : theta;
  return [
    readRope(config, full, scaled ? "rope_scaling" : "rope_parameters.full_attention", context(fullTheta)),
    readRope(
      config,
      both.object("sliding_attention"),
      "rope_parameters.sliding_attention",
      context(() => config.positive("rope_local_base_freq", 10000)),
    ),
  ];
}
