/** The loop that turns prompts into tokens: prefill in chunks, then one token a step for each sequence, all in one batch. */
import { LowrankError } from "../errors.js";
import { randomKey } from "../tensor/random.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import { KvCache, type KvShape } from "./kv-cache.js";
import type { ResolvedOptions } from "./options.js";
import { argmax, drawToken, processLogits, warpLogits } from "./sampling.js";

/** What a step of the decoder computes: logits [sequences, vocab] of each sequence's last token in `rows`. */
export interface DecoderModel extends Disposable {
  readonly vocabSize: number;
  readonly maxPositions: number;
  readonly kvShape: KvShape;
  /** What a cache holds of a sequence of at most this many tokens is worth nothing once the sequence is longer; absent: it always is. */
  readonly restartAfter: number | undefined;
  /**
   * @param tokens new tokens of each sequence, possibly none; they are appended to the cache. @param lengths tokens known of each
   * sequence, those still to come in later steps included. Float32 [sequences with tokens, vocab].
   */
  step(tokens: readonly (readonly number[])[], cache: KvCache, lengths: readonly number[]): Tensor;
}

export interface DecodedToken {
  /** Index of the prompt. */
  sequence: number;
  tokenId: number;
  /** The sequence ends with this token. */
  last: boolean;
}

/**
 * Yields the tokens of all prompts as they come; the step after them is under way by then, so that the device does not wait for the caller.
 * Leaving the loop lets that step end and frees the cache. @throws the signal's reason; INVALID_ARGUMENT for prompts that do not fit.
 */
export async function* decodeTokens(
  model: DecoderModel,
  prompts: readonly (readonly number[])[],
  options: ResolvedOptions,
): AsyncGenerator<DecodedToken, void, void> {
  checkPrompts(model, prompts);
  options.signal?.throwIfAborted();
  const sequences = prompts.map((prompt) => ({
    history: [...prompt],
    pending: [...prompt],
    left: Math.min(options.maxNewTokens, model.maxPositions - prompt.length),
    cachedFor: 0, // tokens it had when the cache was filled last
  }));
  const restartAfter = model.restartAfter ?? Number.POSITIVE_INFINITY;
  using cache = new KvCache(model.kvShape, prompts.length);
  /** Enqueues a step for the sequences that go on; what it gives, or why it failed, comes with the promise. */
  const submit = async (): Promise<{ tokens: number[][]; rows: Float32Array } | undefined> => {
    if (!sequences.some(({ left }) => left > 0)) return undefined;
    options.signal?.throwIfAborted();
    for (const [index, sequence] of sequences.entries()) {
      const { history, cachedFor } = sequence;
      if (cachedFor > 0 && cachedFor <= restartAfter && history.length > restartAfter) {
        cache.clear(index);
        sequence.pending = [...history];
      }
      sequence.cachedFor = history.length;
    }
    const tokens = sequences.map(({ left, pending }) => (left > 0 ? pending.splice(0, options.prefillChunk) : []));
    const lengths = sequences.map(({ history }) => history.length);
    using logits = scope(() => model.step(tokens, cache, lengths));
    return { tokens, rows: await logits.readFloat32() };
  };
  let next = submit();
  try {
    for (let step = await next; step; step = await next) {
      options.signal?.throwIfAborted();
      const { tokens, rows } = step;
      const chosen: DecodedToken[] = [];
      let row = 0;
      for (const [index, sequence] of sequences.entries()) {
        if (tokens[index]!.length === 0) continue;
        const scores = rows.subarray(row * model.vocabSize, ++row * model.vocabSize);
        if (sequence.pending.length > 0) continue;
        const tokenId = chooseToken(scores, sequence.history, options, index);
        sequence.history.push(tokenId);
        sequence.pending.push(tokenId);
        sequence.left = options.eosTokenIds.has(tokenId) ? 0 : sequence.left - 1;
        chosen.push({ sequence: index, tokenId, last: sequence.left === 0 });
      }
      next = submit();
      next.catch(() => {}); // until it is awaited
      for (const token of chosen) yield token;
    }
  } finally {
    await next.catch(() => {});
  }
}

function chooseToken(scores: Float32Array, history: readonly number[], options: ResolvedOptions, sequence: number): number {
  processLogits(scores, history, options.sampling);
  if (!options.doSample) return argmax(scores);
  const ids = warpLogits(scores, options.sampling);
  // 53 bits of a counter-based number: the same seed draws the same tokens, whatever else runs beside.
  const uniform = Number(randomKey(options.seed, "sampling", sequence, history.length) >> 11n) * 2 ** -53;
  return drawToken(scores, ids, uniform);
}

function checkPrompts(model: DecoderModel, prompts: readonly (readonly number[])[]): void {
  for (const prompt of prompts) {
    if (prompt.length === 0) {
      throw new LowrankError("INVALID_ARGUMENT", "generate: the prompt has no tokens", {
        hint: "Give at least one token, such as the model's bos token.",
      });
    }
    if (prompt.length >= model.maxPositions) {
      throw new LowrankError(
        "INVALID_ARGUMENT",
        `generate: the prompt has ${prompt.length} tokens, the model's context holds ${model.maxPositions}`,
        {
          hint: "Shorten the prompt.",
        },
      );
    }
    const wrong = prompt.find((id) => !Number.isInteger(id) || id < 0 || id >= model.vocabSize);
    if (wrong !== undefined)
      throw new LowrankError(
        "INVALID_ARGUMENT",
        `generate: ${wrong} is not a token id of this model (0 to ${model.vocabSize - 1})`,
      );
  }
}
