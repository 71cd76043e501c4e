import { CHAT_TEMPLATE, SPECIAL_TOKENS } from "./template.js";

export const VOCAB_SIZE = 1024;

/** config.json: a Llama of 1.8 M parameters. */
export const MODEL_CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: VOCAB_SIZE,
  hidden_size: 192,
  intermediate_size: 512,
  num_hidden_layers: 4,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 32,
  hidden_act: "silu",
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  rope_scaling: null,
  attention_bias: false,
  mlp_bias: false,
  attention_dropout: 0,
  tie_word_embeddings: true,
  initializer_range: 0.02,
  bos_token_id: null,
  eos_token_id: SPECIAL_TOKENS.indexOf("<|end|>"),
  pad_token_id: SPECIAL_TOKENS.indexOf("<|pad|>"),
  torch_dtype: "bfloat16",
  use_cache: true,
};

export const GENERATION_CONFIG = {
  eos_token_id: MODEL_CONFIG.eos_token_id,
  pad_token_id: MODEL_CONFIG.pad_token_id,
  do_sample: false,
  max_new_tokens: 64,
};

export const TOKENIZER_CONFIG = {
  tokenizer_class: "PreTrainedTokenizerFast",
  model_max_length: MODEL_CONFIG.max_position_embeddings,
  add_bos_token: false,
  clean_up_tokenization_spaces: false,
  bos_token: null,
  eos_token: "<|end|>",
  pad_token: "<|pad|>",
  chat_template: CHAT_TEMPLATE,
};
