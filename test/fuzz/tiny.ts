/** A model of a few kilobytes, its tokenizer and an adapter: what a mutant costs is what its parsing costs. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { safetensors } from "./files.js";

export const CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 8,
  intermediate_size: 16,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 4,
  hidden_act: "silu",
  vocab_size: 384,
  max_position_embeddings: 64,
  rms_norm_eps: 1e-5,
  rope_parameters: {
    rope_type: "llama3",
    rope_theta: 10000,
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 32,
  },
  tie_word_embeddings: true,
  bos_token_id: 1,
  eos_token_id: [2],
  pad_token_id: null,
  attention_bias: false,
  torch_dtype: "float32",
};
export const GENERATION = {
  do_sample: true,
  temperature: 0.6,
  top_k: 20,
  top_p: 0.9,
  eos_token_id: [2],
  max_new_tokens: 4,
  suppress_tokens: [3],
};

type Shapes = Record<string, number[]>;

/** A safetensors file of float32 tensors with small values. */
export function weightsOf(shapes: Shapes): Buffer {
  let at = 0;
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } };
  for (const [name, shape] of Object.entries(shapes)) {
    const bytes = 4 * shape.reduce((product, n) => product * n, 1);
    header[name] = { dtype: "F32", shape, data_offsets: [at, at + bytes] };
    at += bytes;
  }
  const values = Float32Array.from({ length: at / 4 }, (_, i) => Math.sin(i) / 8);
  return safetensors(header, Buffer.from(values.buffer));
}

const layer = (i: number): Shapes =>
  Object.fromEntries(
    Object.entries({
      "self_attn.q_proj.weight": [8, 8],
      "self_attn.k_proj.weight": [4, 8],
      "self_attn.v_proj.weight": [4, 8],
      "self_attn.o_proj.weight": [8, 8],
      "mlp.gate_proj.weight": [16, 8],
      "mlp.up_proj.weight": [16, 8],
      "mlp.down_proj.weight": [8, 16],
      "input_layernorm.weight": [8],
      "post_attention_layernorm.weight": [8],
    }).map(([name, shape]) => [`model.layers.${i}.${name}`, shape]),
  );
/** Two shards. */
export const SHARDS: Record<string, Shapes> = {
  "model-00001-of-00002.safetensors": { "model.embed_tokens.weight": [384, 8], ...layer(0) },
  "model-00002-of-00002.safetensors": { ...layer(1), "model.norm.weight": [8] },
};
export const INDEX = {
  metadata: { total_size: 1 },
  weight_map: Object.fromEntries(
    Object.entries(SHARDS).flatMap(([file, shapes]) => Object.keys(shapes).map((name) => [name, file])),
  ),
};
export const ALL = Object.assign({}, ...Object.values(SHARDS)) as Shapes;

const golden = join(import.meta.dirname, "../golden/cases/text");
export const tokenizerFiles = (kind: "bytelevel" | "sentencepiece"): Record<string, Buffer> =>
  Object.fromEntries(
    ["tokenizer.json", "tokenizer_config.json"].map((name) => [
      name,
      readFileSync(join(golden, `tokenizer_${kind}`, "tokenizer", name)),
    ]),
  );

export const modelFiles = (): Record<string, unknown> => ({
  "config.json": CONFIG,
  "generation_config.json": GENERATION,
  "model.safetensors": weightsOf(ALL),
});

export const ADAPTER = {
  peft_type: "LORA",
  task_type: "CAUSAL_LM",
  base_model_name_or_path: "tiny",
  r: 2,
  lora_alpha: 4,
  lora_dropout: 0.1,
  target_modules: ["q_proj", "down_proj"],
  exclude_modules: null,
  modules_to_save: null,
  bias: "none",
  rank_pattern: { "layers.1.self_attn.q_proj": 3 },
  alpha_pattern: { "layers.1.self_attn.q_proj": 6 },
  layers_to_transform: null,
  layers_pattern: null,
  init_lora_weights: true,
  inference_mode: true,
  use_rslora: false,
};
const pair = (name: string, rank: number, out: number, input: number): Shapes => ({
  [`base_model.model.model.layers.${name}.lora_A.weight`]: [rank, input],
  [`base_model.model.model.layers.${name}.lora_B.weight`]: [out, rank],
});
export const ADAPTER_WEIGHTS: Shapes = {
  ...pair("0.self_attn.q_proj", 2, 8, 8),
  ...pair("1.self_attn.q_proj", 3, 8, 8),
  ...pair("0.mlp.down_proj", 2, 8, 16),
  ...pair("1.mlp.down_proj", 2, 8, 16),
};
