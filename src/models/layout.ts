/** Which tensors a checkpoint holds: names, shapes and what each is. */
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

/** The layout of a family by the tensors of its layers. */
export function weightLayout(layer: LayerTensors = llamaLayer): WeightLayout {
  return { tensors: (config) => decoderTensors(config, layer), ignored: IGNORED_TENSORS };
}

/** Rotary frequencies (old checkpoints carry them, they are computed from the config) and the second copy of a tied head. */
const IGNORED_TENSORS = /(\.rotary_emb\.inv_freq|^lm_head\.weight)$/;

/** A family's tensors of one layer, by their name in it. */
export type LayerTensors = (config: DecoderConfig) => TensorSpec[];

/** The layers of Llama: a linear each for q, k, v, o, gate, up and down, and two norms. */
export const llamaLayer: LayerTensors = (config) => [
  ...attentionTensors(config),
  ...mlpTensors(config),
  normTensor("input_layernorm", config.hiddenSize),
  normTensor("post_attention_layernorm", config.hiddenSize),
];

/** Embedding, layers, final norm, and the head where it is not tied. */
export function decoderTensors(config: DecoderConfig, layer: LayerTensors = llamaLayer): TensorSpec[] {
  const { hiddenSize, vocabSize } = config;
  const layers = Array.from({ length: config.numLayers }, (_, i) =>
    layer(config).map((spec) => ({ ...spec, name: `model.layers.${i}.${spec.name}` })),
  );
  const head: TensorSpec = { name: "lm_head.weight", shape: [vocabSize, hiddenSize], kind: "head" };
  return [
    { name: "model.embed_tokens.weight", shape: [vocabSize, hiddenSize], kind: "embedding" },
    ...layers.flat(),
    normTensor("model.norm", hiddenSize),
    ...(config.tieWordEmbeddings ? [] : [head]),
  ];
}

/** q, k, v and o, with biases where `config.bias` says so. */
export function attentionTensors({ hiddenSize, numHeads, numKvHeads, headDim, bias }: DecoderConfig): TensorSpec[] {
  return [
    ...linearTensors("self_attn.q_proj", numHeads * headDim, hiddenSize, bias.qkv),
    ...linearTensors("self_attn.k_proj", numKvHeads * headDim, hiddenSize, bias.qkv),
    ...linearTensors("self_attn.v_proj", numKvHeads * headDim, hiddenSize, bias.qkv),
    ...linearTensors("self_attn.o_proj", hiddenSize, numHeads * headDim, bias.o),
  ];
}

/** gate, up and down, with biases where `config.bias` says so. */
export function mlpTensors({ hiddenSize, intermediateSize, bias }: DecoderConfig): TensorSpec[] {
  return [
    ...linearTensors("mlp.gate_proj", intermediateSize, hiddenSize, bias.mlp),
    ...linearTensors("mlp.up_proj", intermediateSize, hiddenSize, bias.mlp),
    ...linearTensors("mlp.down_proj", hiddenSize, intermediateSize, bias.mlp),
  ];
}

export function linearTensors(path: string, out: number, input: number, bias = false): TensorSpec[] {
  const weight: TensorSpec = { name: `${path}.weight`, shape: [out, input], kind: "linear" };
  return bias ? [weight, { name: `${path}.bias`, shape: [out], kind: "bias" }] : [weight];
}

export function normTensor(path: string, size: number): TensorSpec {
  return { name: `${path}.weight`, shape: [size], kind: "norm" };
}
