import { SeededRandom } from "../../src/quickstart/random.js";
import { MODEL_CONFIG } from "./files.js";

export interface InitialTensor {
  readonly name: string;
  readonly shape: readonly number[];
  readonly values: Float32Array;
}

/** Weights to start from, under Hugging Face's names: matrices normal with the config's standard deviation, norms 1. */
export function initialWeights(seed: number): InitialTensor[] {
  const {
    hidden_size: d,
    head_dim,
    num_attention_heads,
    num_key_value_heads,
    intermediate_size: ffn,
    vocab_size,
    num_hidden_layers,
  } = MODEL_CONFIG;
  const random = new SeededRandom(seed);
  const tensors: InitialTensor[] = [];
  const matrix = (name: string, rows: number, columns: number) => {
    const values = Float32Array.from({ length: rows * columns }, () => MODEL_CONFIG.initializer_range * normal(random));
    tensors.push({ name, shape: [rows, columns], values });
  };
  const norm = (name: string) => tensors.push({ name, shape: [d], values: new Float32Array(d).fill(1) });
  matrix("model.embed_tokens.weight", vocab_size, d);
  for (let layer = 0; layer < num_hidden_layers; layer++) {
    const path = `model.layers.${layer}`;
    norm(`${path}.input_layernorm.weight`);
    matrix(`${path}.self_attn.q_proj.weight`, num_attention_heads * head_dim, d);
    matrix(`${path}.self_attn.k_proj.weight`, num_key_value_heads * head_dim, d);
    matrix(`${path}.self_attn.v_proj.weight`, num_key_value_heads * head_dim, d);
    matrix(`${path}.self_attn.o_proj.weight`, d, num_attention_heads * head_dim);
    norm(`${path}.post_attention_layernorm.weight`);
    matrix(`${path}.mlp.gate_proj.weight`, ffn, d);
    matrix(`${path}.mlp.up_proj.weight`, ffn, d);
    matrix(`${path}.mlp.down_proj.weight`, d, ffn);
  }
  norm("model.norm.weight");
  return tensors;
}

/** Twelve uniform numbers added up: nearly normal, and the same bits everywhere, which Math.log and Math.cos do not promise. */
function normal(random: SeededRandom): number {
  let sum = -6;
  for (let i = 0; i < 12; i++) sum += random.next();
  return sum;
}
