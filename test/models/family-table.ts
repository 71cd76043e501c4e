/** Small models of every family, with the options that change what is computed. */

const sizes = {
  vocab_size: 17,
  hidden_size: 12,
  intermediate_size: 20,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  max_position_embeddings: 64,
  initializer_range: 0.3,
};

type Json = Readonly<Record<string, unknown>>;

const family = (model_type: string, variants: Readonly<Record<string, Json>>): [string, Json][] =>
  Object.entries(variants).map(([name, json]) => [`${model_type}${name && `, ${name}`}`, { ...sizes, model_type, ...json }]);

/** Name and config.json. */
export const FAMILY_CONFIGS: [name: string, json: Json][] = [
  ...family("llama", {
    "untied, biases": { attention_bias: true, mlp_bias: true },
    tied: { tie_word_embeddings: true },
    "dynamic rope": { rope_scaling: { rope_type: "dynamic", factor: 2 }, max_position_embeddings: 6 },
  }),
  ...family("gemma2", {
    "": { head_dim: 8, sliding_window: 3, query_pre_attn_scalar: 6, attn_logit_softcapping: 1.5, final_logit_softcapping: 2 },
    "no caps, biases, untied": {
      attn_logit_softcapping: null,
      final_logit_softcapping: null,
      attention_bias: true,
      tie_word_embeddings: false,
      head_dim: 6,
    },
  }),
  ...family("gemma3_text", {
    "": { num_hidden_layers: 3, sliding_window_pattern: 3, sliding_window: 3, head_dim: 8, query_pre_attn_scalar: 6 },
    capped: { final_logit_softcapping: 2, head_dim: 8, rope_scaling: { rope_type: "linear", factor: 4 } },
  }),
  ...family("granite", {
    "tied, biases": {
      embedding_multiplier: 1.5,
      residual_multiplier: 0.4,
      attention_multiplier: 0.3,
      logits_scaling: 0.7,
      attention_bias: true,
      mlp_bias: true,
      tie_word_embeddings: true,
    },
  }),
  ...family("mistral", { window: { sliding_window: 3, head_dim: 10 } }),
  ...family("olmo2", { "": {}, biases: { attention_bias: true, head_dim: 10 } }),
  ...family("phi3", {
    "": { sliding_window: 3 },
    "longrope, partly rotated": {
      partial_rotary_factor: 0.75,
      original_max_position_embeddings: 6,
      rope_scaling: { type: "longrope", short_factor: [1, 1.5], long_factor: [2, 5] },
    },
  }),
  ...family("qwen2", {
    tied: { tie_word_embeddings: true },
    "window in later layers": { use_sliding_window: true, sliding_window: 3, max_window_layers: 1 },
  }),
  ...family("qwen3", { "biases, tied": { attention_bias: true, head_dim: 8, tie_word_embeddings: true } }),
  ...family("smollm3", {
    "window without rope": { no_rope_layers: [1, 0], use_sliding_window: true, sliding_window: 3 },
    "an interval, untied, biases": {
      no_rope_layer_interval: 2,
      tie_word_embeddings: false,
      attention_bias: true,
      mlp_bias: true,
    },
  }),
];
