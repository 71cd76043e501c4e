/** A model's passes in a generation: prompts pass by pass; a token for each sequence by ops that were recorded once. */
import type { DecoderModel } from "../generate/decode.js";
import type { KvCache, KvShape, KvView } from "../generate/kv-cache.js";
import type { AdapterSelection } from "../nn/adapter-slot.js";
import { watchModules } from "../nn/watch.js";
import { embedding } from "../ops/embedding.js";
import { Recording } from "../tensor/recording.js";
import { Tensor } from "../tensor/tensor.js";
import { layoutOf } from "./batch.js";
import type { CausalLM } from "./causal-lm.js";

/** What a pass is given: token ids and positions [T], cuSeqlens [n + 1], kvLen [n], blockTable [n, width], one behind the other in an int32. */
interface Inputs {
  words: Int32Array;
  tokens: readonly number[];
  width: number;
}

export class GenerationSteps implements DecoderModel {
  readonly vocabSize: number;
  readonly maxPositions: number;
  readonly kvShape: KvShape;
  readonly restartAfter: number | undefined;
  readonly #assertUnchanged: () => void;
  #recorded: { recording: Recording; inputs: Tensor; sequences: number; width: number } | undefined;

  constructor(
    private readonly model: CausalLM,
    private readonly adapters: AdapterSelection,
  ) {
    const { numLayers, numKvHeads, headDim, maxPositions } = model.config;
    this.vocabSize = model.vocabSize;
    this.maxPositions = maxPositions;
    // Products that round their operands need no more of them.
    const dtype = model.bf16 ? "bfloat16" : "float32";
    this.kvShape = { device: model.device, dtype, layers: numLayers, kvHeads: numKvHeads, headDim };
    this.restartAfter = model.rotation.restartAfter;
    this.#assertUnchanged = watchModules(model, adapters);
  }

  step(tokens: readonly (readonly number[])[], cache: KvCache, lengths: readonly number[]): Tensor {
    this.#assertUnchanged();
    const counts = tokens.map((ids) => ids.length);
    // The recording holds on to the pools it reads.
    if (!cache.holds(counts)) this.#forget();
    const inputs = inputsOf(
      tokens.filter((ids) => ids.length > 0),
      cache.extend(counts),
    );
    const contexts = lengths.filter((_, i) => counts[i]! > 0);
    if (counts.some((count) => count > 1) || this.model.rotation.changesWithLength)
      return this.#pass(this.#upload(inputs), inputs, cache, contexts);
    return this.#replay(inputs, cache, contexts);
  }

  [Symbol.dispose](): void {
    this.#forget();
  }

  #replay(inputs: Inputs, cache: KvCache, contexts: readonly number[]): Tensor {
    const { tokens, width, words } = inputs;
    if (this.#recorded?.sequences === tokens.length && this.#recorded.width === width) this.#recorded.inputs.upload(words);
    else {
      this.#forget();
      const uploaded = this.#upload(inputs).keep();
      try {
        const recording = new Recording(this.model.device, () => this.#pass(uploaded, inputs, cache, contexts));
        this.#recorded = { recording, inputs: uploaded, sequences: tokens.length, width };
      } catch (error) {
        uploaded.dispose();
        throw error;
      }
    }
    this.#recorded.recording.replay();
    return this.#recorded.recording.output.retain();
  }

  #forget(): void {
    this.#recorded?.recording.dispose();
    this.#recorded?.inputs.dispose();
    this.#recorded = undefined;
  }

  #upload({ words }: Inputs): Tensor {
    return Tensor.from(words, [words.length], { device: this.model.device });
  }

  /** Logits float32 [n, vocab] of each sequence's last token. */
  #pass(uploaded: Tensor, { tokens, width }: Inputs, cache: KvCache, contexts: readonly number[]): Tensor {
    const sequences = tokens.length;
    const total = tokens.reduce((sum, n) => sum + n, 0);
    let begin = 0;
    const next = (...shape: number[]) => {
      const part = uploaded.view(4 * begin, "int32", shape);
      begin += part.size;
      return part;
    };
    const batch = {
      inputIds: next(total),
      positions: next(total),
      cuSeqlens: next(sequences + 1),
      maxSeqlen: Math.max(...tokens),
      sequences: tokens.map((count, i) => ({ tokens: count, context: contexts[i]! })),
    };
    const [kvLen, blockTable] = [next(sequences), next(sequences, width)];
    const { adapters, model } = this;
    const hidden = model.hiddenStates(batch, {
      adapters,
      cache: (layer) => ({ ...cache.pool(layer), kvLen, blockTable }),
    });
    return model.logits(lastRows(hidden, tokens), { adapters });
  }
}

function inputsOf(sequences: readonly (readonly number[])[], view: KvView): Inputs {
  const { bounds, positions } = layoutOf(sequences, view.starts);
  return {
    words: Int32Array.from([...sequences.flat(), ...positions, ...bounds, ...view.lengths, ...view.blocks]),
    tokens: sequences.map((ids) => ids.length),
    width: view.width,
  };
}

/** The last row of each sequence: float32 [sequences, d]. */
function lastRows(hidden: Tensor, tokens: readonly number[]): Tensor {
  if (tokens.every((count) => count === 1)) return hidden;
  let end = 0;
  const rows = Int32Array.from(tokens, (count) => {
    end += count;
    return end - 1;
  });
  return embedding(hidden, Tensor.from(rows, [rows.length], { device: hidden.device }));
}
