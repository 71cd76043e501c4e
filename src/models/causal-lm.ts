import { checkpoint } from "../autograd/checkpoint.js";
import type { ActivationOffload } from "../autograd/offload.js";
import { activeTape } from "../autograd/tape.js";
import { LowrankError } from "../errors.js";
import type { GenerateOptions, GenerationConfig } from "../generate/options.js";
import { type GeneratedToken, generate, generateIds, type Prompt, stream, type TextModel } from "../generate/stream.js";
import type { FolderWriter } from "../io/durable.js";
import { type AdapterSelection, BASE_ONLY, namesOf } from "../nn/adapter-slot.js";
import { contentWith, type ForwardMode, Linear, linear } from "../nn/linear.js";
import { Module } from "../nn/module.js";
import { adaptables } from "../nn/watch.js";
import { add, scale } from "../ops/elementwise.js";
import { softcap } from "../ops/softcap.js";
import { type TokenLogProb, type TokenLogProbOptions, tokenLogProb } from "../ops/token-logprob.js";
import { Weight } from "../quant/weight.js";
import type { Device } from "../tensor/device.js";
import type { DType } from "../tensor/dtype.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import type { Tokenizer } from "../text/tokenizer.js";
import type { Batch } from "./batch.js";
import type { DecoderConfig } from "./config.js";
import { DecoderLayer, DecoderModel, type Layer, type LayerClass } from "./decoder.js";
import { GenerationSteps } from "./generation.js";
import type { LayerContext } from "./layer-context.js";
import type { ModelWeights } from "./loader.js";
import { type ParameterSlot, parameterSlots } from "./parameter-slots.js";
import { Rotation } from "./rotation.js";
import { type SavePretrainedOptions, savePretrained, writeFiles } from "./save-pretrained.js";

/** How a forward pass runs. */
export interface ForwardOptions extends ForwardMode {
  /** Keys and values of earlier tokens by layer; the batch continues them. Without gradients. */
  cache?: LayerContext["cache"];
  /** Recompute each layer in the backward pass instead of keeping its activations. */
  checkpointing?: boolean | undefined;
  /** Where recomputed layers keep their inputs meanwhile; absent: on the device. */
  offload?: ActivationOffload | undefined;
  /** Called with the input of every layer, and with the last one's output before the final norm: float32 [T, hidden]. */
  observe?: ((hidden: Tensor) => void) | undefined;
  /** Added to the embeddings (NEFTune): float32 [T, hidden]. */
  embeddingNoise?: Tensor | undefined;
}

/** What a model is made of besides its weights. */
export interface ModelParts {
  config: DecoderConfig;
  weights: ModelWeights;
  device: Device;
  generationConfig: GenerationConfig;
  /** Operands of products are rounded to bfloat16. */
  bf16: boolean;
  /** Folder or id it came from. */
  nameOrPath: string;
  /** Hash of the checkpoint it was loaded from; absent for a model that was not. */
  checkpointHash?: (() => Promise<string | null>) | undefined;
  tokenizer(): Promise<Tokenizer | undefined>;
}

/** A decoder-only language model: modules under Hugging Face's paths, forward passes, generation. */
export abstract class CausalLM extends Module implements TextModel {
  readonly model: DecoderModel;
  readonly lmHead: Linear;
  readonly config: DecoderConfig;
  readonly device: Device;
  readonly generationConfig: GenerationConfig;
  readonly nameOrPath: string;
  /** The dtype in which what is not quantised is saved: the checkpoint's, float32 once the model was trained. */
  dtype: DType;
  readonly bf16: boolean;
  readonly tokenizer: () => Promise<Tokenizer | undefined>;
  /** Adapters of passes and generations that name none. */
  adapters: AdapterSelection = BASE_ONLY;
  readonly rotation: Rotation;
  #checkpointHash: (() => Promise<string | null>) | undefined;

  /** @param layer the family's own, where it is not Llama's. */
  constructor(parts: ModelParts, layer: LayerClass = DecoderLayer) {
    super();
    const { config, weights, device, generationConfig, bf16, nameOrPath, checkpointHash, tokenizer } = parts;
    this.config = config;
    this.device = device;
    this.generationConfig = generationConfig;
    this.bf16 = bf16;
    this.nameOrPath = nameOrPath;
    this.tokenizer = tokenizer;
    this.#checkpointHash = checkpointHash;
    this.dtype = weights.dtype;
    this.rotation = new Rotation(config.ropes, device);
    this.model = new DecoderModel(config, weights, layer);
    this.lmHead = new Linear(
      config.tieWordEmbeddings ? Weight.borrow(this.model.embedTokens.weight) : weights.weight("lm_head.weight"),
    );
  }

  get vocabSize(): number {
    return this.config.vocabSize;
  }

  /**
   * Names the content of the checkpoint these weights come from ({@link checkpointHash}), the same whether it was quantised on loading
   * or not. Computed when first asked for. Null where the weights are those of no checkpoint: made from a config, trained or merged
   * since, or the files have changed since they were loaded.
   */
  baseHash(): Promise<string | null> {
    return this.#checkpointHash?.() ?? Promise.resolve(null);
  }

  /** From now on the weights are no longer those of the checkpoint. */
  weightsChanged(): void {
    this.#checkpointHash = undefined;
  }

  /** Hidden states float32 [T, hidden] after the final norm. */
  hiddenStates(batch: Batch, options: ForwardOptions = {}): Tensor {
    const context: LayerContext = {
      mode: this.mode(options),
      cuSeqlens: batch.cuSeqlens,
      maxSeqlen: batch.maxSeqlen,
      ropeTables: this.rotation.tables(batch),
      cache: options.cache,
    };
    let x = this.model.embedTokens.forward(batch.inputIds, context.mode);
    const { embeddingNoiseScale: factor } = this.config;
    if (options.embeddingNoise) x = add(x, factor === 1 ? options.embeddingNoise : scale(options.embeddingNoise, factor));
    options.observe?.(x);
    for (const layer of this.model.layers) {
      const input = x;
      x =
        options.checkpointing && activeTape()
          ? checkpointed(layer, input, context, options.offload)
          : scope(() => layer.forward(input, context));
      // The tape holds what backward needs. Observers may hold what they saw to the end of their scope.
      if (options.observe) options.observe(x);
      else input.dispose();
    }
    return this.model.norm.forward(x, context.mode);
  }

  /** Logits float32 [T, vocab] of hidden states: large; for losses use {@link CausalLM.tokenLogProb}. */
  logits(hidden: Tensor, options: ForwardMode = {}): Tensor {
    const { scale: factor, softcap: cap } = this.config.logits;
    const products = this.products(hidden, this.mode(options));
    if (cap !== undefined) return softcap(products, cap, factor);
    return factor === 1 ? products : scale(products, factor);
  }

  /** Log-probability of each row's label (int32 [T], -100: none); all logits exist at once only where an adapter changes the head's. */
  tokenLogProb(hidden: Tensor, labels: Tensor, options: TokenLogProbOptions & ForwardMode = {}): TokenLogProb {
    const mode = this.mode(options);
    const parts = this.lmHead.adapters.of(namesOf(mode.adapters ?? BASE_ONLY));
    const [weight, bias] = contentWith(this.lmHead, parts);
    const fused = bias === undefined && parts.every(({ pair, rows }) => !pair && !rows);
    const { scale: logitScale, softcap: cap } = this.config.logits;
    const head = { logitScale, ...(cap !== undefined && { softcap: cap }), ...options };
    if (fused) return tokenLogProb(hidden, weight, labels, { bf16: this.bf16, ...head });
    return tokenLogProb(this.products(hidden, mode), undefined, labels, head);
  }

  /** The answer to a prompt: text, messages (through the chat template) or token ids. */
  generate(prompt: Prompt, options: GenerateOptions = {}): Promise<string> {
    return generate(this, prompt, options);
  }

  /** The answer token by token; the texts joined equal {@link CausalLM.generate}. */
  stream(prompt: Prompt, options: GenerateOptions = {}): AsyncIterableIterator<GeneratedToken> {
    return stream(this, prompt, options);
  }

  /** New token ids of several prompts, computed as one batch. */
  generateIds(prompts: readonly (readonly number[])[], options: GenerateOptions = {}): Promise<number[][]> {
    return generateIds(this, prompts, options);
  }

  /** Writes config, weights, generation config and tokenizer files as a Hugging Face folder. */
  savePretrained(folder: string, options: SavePretrainedOptions = {}): Promise<void> {
    return savePretrained(this, folder, options);
  }

  /** The same files without the tokenizer's, into a folder that is being written, such as a checkpoint. */
  writeFiles(dir: FolderWriter, options: SavePretrainedOptions = {}): Promise<void> {
    return writeFiles(this, dir, options);
  }

  /**
   * Every tensor of the model as a place that training can fill with a parameter of its own; a tied head shares the embedding's.
   * @throws LowrankError UNSUPPORTED for a model with 4-bit weights, which cannot be trained
   */
  parameterSlots(): ParameterSlot[] {
    return parameterSlots(this);
  }

  /** Steps of a generation with the adapters of now; they throw DISPOSED once those, or weights, were deleted or replaced. */
  decoder(adapter: string | null | undefined): GenerationSteps {
    const adapters = adapter === undefined ? this.adapters : this.selectionOf(adapter);
    return new GenerationSteps(this, adapters);
  }

  /** hidden · Wᵀ, before the logits are scaled and capped. */
  private products(hidden: Tensor, mode: ForwardMode): Tensor {
    return linear(hidden, [this.lmHead], mode, "lm_head")[0]!;
  }

  private selectionOf(adapter: string | null): AdapterSelection {
    if (adapter === null) return BASE_ONLY;
    const names = new Set(adaptables(this).flatMap(([, { adapters }]) => [...adapters.parts.keys()]));
    if (names.has(adapter)) return { names: [adapter] };
    throw new LowrankError("NOT_FOUND", `There is no adapter '${adapter}' on this model`, {
      hint: names.size > 0 ? `Loaded: ${[...names].join(", ")}.` : "No adapter is loaded.",
    });
  }

  private mode(options: ForwardMode): ForwardMode {
    return { bf16: options.bf16 ?? this.bf16, adapters: options.adapters ?? this.adapters, training: options.training ?? false };
  }

  /** Frees all weights. Idempotent. */
  override dispose(): void {
    // A tied head borrows the embedding, which must outlive it.
    this.lmHead.dispose();
    super.dispose();
    this.rotation.dispose();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.dispose();
  }
}

/** One layer as a unit of recomputation. */
function checkpointed(layer: Layer, stream: Tensor, context: LayerContext, offload: ActivationOffload | undefined): Tensor {
  const captures = [...layer.parameters()].map(([, tensor]) => tensor);
  for (const [, { adapters }] of adaptables(layer)) for (const part of adapters.parts.values()) captures.push(...part.tensors);
  const trained = captures.filter((tensor) => tensor.requiresGrad);
  const used = [...trained, ...context.ropeTables, context.cuSeqlens];
  return checkpoint((stream) => [layer.forward(stream!, context)], [stream], used, offload)[0]!;
}
