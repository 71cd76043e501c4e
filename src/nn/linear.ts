import { LowrankError } from "../errors.js";
import { add, scale } from "../ops/elementwise.js";
import { type LinearLayer, type LoraSegment, linearGroup } from "../ops/linear.js";
import type { Weight } from "../quant/weight.js";
import { nextKey } from "../tensor/random.js";
import type { Tensor } from "../tensor/tensor.js";
import { type AdapterSelection, AdapterSlot, BASE_ONLY, type LoraPair } from "./adapter-slot.js";
import { biasRows } from "./lora-bias.js";
import { Module } from "./module.js";

/** A linear layer with room for adapters. Paths and weights stay what they are whatever adapters come and go. */
export class Linear extends Module {
  weight: Weight;
  bias: Tensor | undefined;
  readonly adapters = new AdapterSlot();

  constructor(weight: Weight, bias?: Tensor) {
    super();
    this.weight = weight;
    this.bias = bias;
  }

  override *tensors(): Iterable<[string, Tensor]> {
    if (this.weight.dense) yield ["weight", this.weight.dense];
    if (this.bias) yield ["bias", this.bias];
  }

  override dispose(): void {
    this.weight.dispose();
    this.bias?.dispose();
    for (const pair of this.adapters.pairs.values()) pair.dispose();
    this.adapters.pairs.clear();
  }
}

/** How a forward pass runs: shared by all linears of it. */
export interface ForwardMode {
  adapters?: AdapterSelection;
  /** Dropout of adapters is active. */
  training?: boolean;
  /** Operands of products rounded to bfloat16. */
  bf16?: boolean;
}

/**
 * The grouped op: linears that read the same x [T, in] in one call. `path` names the group for its dropout mask.
 * Rows of their own adapters are for inference: training refuses them as PEFT does (UNSUPPORTED).
 * Several adapters on the same rows: the first rides in the fused call, the deltas of the others are added.
 */
export function linear(x: Tensor, layers: readonly Linear[], mode: ForwardMode = {}, path = ""): Tensor[] {
  const selection = mode.adapters ?? BASE_ONLY;
  if (mode.training && "rows" in selection) {
    throw new LowrankError("UNSUPPORTED", "[linear] a batch with adapters by row cannot train", {
      hint: "Train one adapter after the other, or run the mixed batch without training.",
    });
  }
  const rows = x.shape[0] ?? 0;
  const [first, ...more] = "names" in selection ? selection.names : [];
  const ranges = "rows" in selection ? selection.rows : first === undefined ? [] : [{ begin: 0, end: rows, name: first }];
  const bf16 = mode.bf16 ?? false;
  const group = layers.map(
    (layer): LinearLayer => ({ weight: layer.weight, bias: layer.bias, segments: segmentsOf(layer, ranges, rows) }),
  );
  // PEFT's lora_dropout belongs to the adapter: its pairs agree.
  const trained = mode.training ? layers.flatMap(({ adapters }) => adapters.pairs.get(first ?? "") ?? [])[0] : undefined;
  const p = trained?.dropout ?? 0;
  const ys = linearGroup(x, group, { bf16, ...(p > 0 ? { dropout: { p, key: nextKey(path) } } : {}) });
  for (const [i, layer] of layers.entries()) {
    for (const name of more) {
      const pair = layer.adapters.pairs.get(name);
      if (pair) ys[i] = add(ys[i]!, delta(x, pair, bf16, mode.training ?? false));
    }
    const everywhere = more.map((name) => ({ begin: 0, end: rows, name }));
    for (const { begin, end, name } of [...ranges, ...everywhere]) {
      const pair = name === null ? undefined : layer.adapters.pairs.get(name);
      if (pair?.bias) ys[i] = add(ys[i]!, biasRows(pair.bias, pair.scale, rows, begin, end));
    }
  }
  return ys;
}

function segmentsOf(
  layer: Linear,
  ranges: readonly { begin: number; end: number; name: string | null }[],
  rows: number,
): LoraSegment[] {
  return ranges.flatMap(({ begin, end, name }) => {
    if (begin < 0 || end > rows)
      throw new LowrankError("SHAPE_MISMATCH", `[linear] rows ${begin} to ${end} do not lie in the ${rows} rows of x`);
    const pair = name === null ? undefined : layer.adapters.pairs.get(name);
    return pair ? [{ rowBegin: begin, rowEnd: end, a: pair.a, b: pair.b, scale: pair.scale }] : [];
  });
}

/** scale · (x aᵀ) bᵀ, composed of two plain linears. */
function delta(x: Tensor, pair: LoraPair, bf16: boolean, training: boolean): Tensor {
  if (training && pair.dropout > 0) {
    throw new LowrankError("UNSUPPORTED", "[linear] several adapters at once cannot train with dropout", {
      hint: "Set lora_dropout to 0, or activate one adapter.",
    });
  }
  const through = (input: Tensor, weight: Weight): Tensor =>
    linearGroup(input, [{ weight, bias: undefined, segments: [] }], { bf16 })[0]!;
  const { a, b } = pair.weights;
  return scale(through(through(x, a), b), pair.scale);
}
