/** Which tensors a checkpoint of a Llama-like family holds: names, shapes and what each is. */
import type { DecoderConfig } from "./config.js";

export interface TensorSpec {
  /** Name in the checkpoint; without its `.weight` or `.bias` it is the module's path. */
  name: string;
  shape: readonly number[];
  kind: "embedding" | "linear" | "head" | "bias" | "norm";
}

/** How a family's checkpoints differ from the common form. */
export interface WeightLayout {
  tensors(config: DecoderConfig): TensorSpec[];
  /** Tensors that may be in the file and are not needed. */
  ignored: RegExp;
}

/** Rotary frequencies (old checkpoints carry them, they are computed from the config) and the second copy of a tied head. */
export const IGNORED_TENSORS = /(\.rotary_emb\.inv_freq|^lm_head\.weight)$/;

/** The tensors of a decoder with RMSNorm, separate q, k, v, gated MLP, and biases where `config.bias` says so. */
export function decoderTensors(config: DecoderConfig): TensorSpec[] {
  const { hiddenSize: d, intermediateSize: ffn, headDim, vocabSize } = config;
  const q = config.numHeads * headDim;
  const kv = config.numKvHeads * headDim;
  const specs: TensorSpec[] = [{ name: "model.embed_tokens.weight", shape: [vocabSize, d], kind: "embedding" }];
  const linear = (path: string, out: number, input: number, bias: boolean) => {
    specs.push({ name: `${path}.weight`, shape: [out, input], kind: "linear" });
    if (bias) specs.push({ name: `${path}.bias`, shape: [out], kind: "bias" });
  };
  const norm = (path: string) => specs.push({ name: `${path}.weight`, shape: [d], kind: "norm" });
  for (let i = 0; i < config.numLayers; i++) {
    const layer = `model.layers.${i}`;
    linear(`${layer}.self_attn.q_proj`, q, d, config.bias.qkv);
    linear(`${layer}.self_attn.k_proj`, kv, d, config.bias.qkv);
    linear(`${layer}.self_attn.v_proj`, kv, d, config.bias.qkv);
    linear(`${layer}.self_attn.o_proj`, d, q, config.bias.o);
    linear(`${layer}.mlp.gate_proj`, ffn, d, config.bias.mlp);
    linear(`${layer}.mlp.up_proj`, ffn, d, config.bias.mlp);
    linear(`${layer}.mlp.down_proj`, d, ffn, config.bias.mlp);
    norm(`${layer}.input_layernorm`);
    norm(`${layer}.post_attention_layernorm`);
  }
  norm("model.norm");
  if (!config.tieWordEmbeddings) specs.push({ name: "lm_head.weight", shape: [vocabSize, d], kind: "head" });
  return specs;
}
