import { type DecoderConfig, readDecoderConfig, readWindow, uniformLayers } from "../config.js";
import type { ConfigReader } from "../config-reader.js";
import { readRope, ropeKey } from "../rope.js";

export const phi3Defaults = {
  max_position_embeddings: 4096,
  original_max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: false,
};

/** Older files of Phi-3 call longrope su, or yarn. */
const ROPES = { default: "default", longrope: "longrope", su: "longrope", yarn: "longrope" } as const;

/** Phi-3, Phi-3.5 and Phi-4-mini: fused projections, longrope, and in some models a sliding window. */
export function readPhi3Config(config: ConfigReader): DecoderConfig {
  const decoder = readDecoderConfig(config, {
    architecture: "Phi3ForCausalLM",
    ropes: (headDim, maxPositions) => {
      const key = ropeKey(config);
      const theta = () => config.positive("rope_theta", 10000);
      return [readRope(config, config.object(key), key, { headDim, maxPositions, theta, types: ROPES })];
    },
  });
  config.accept("resid_pdrop", [0]);
  config.accept("embd_pdrop", [0]);
  config.accept("attention_bias", [false]);
  config.accept("mlp_bias", [false]);
  const layers = uniformLayers(decoder.numLayers, readWindow(config));
  config.finish("config.json of this phi3 model");
  return { ...decoder, layers };
}
