import { noGrad } from "../autograd/tape.js";
import { LowrankError } from "../errors.js";
import { dropout } from "../ops/dropout.js";
import { add, scale } from "../ops/elementwise.js";
import { type Activation, glu } from "../ops/glu.js";
import { gatedLinear, type LinearLayer, type LinearOptions, type LoraSegment, linearGroup } from "../ops/linear.js";
import { matmulTransposed } from "../ops/matmul.js";
import type { Weight } from "../quant/weight.js";
import { nextKey } from "../tensor/random.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import type { AdapterPart, Delta } from "./adapter-part.js";
import { Adaptable, type AdapterSelection, BASE_ONLY, byRange, namesOf } from "./adapter-slot.js";
import { directed, gain, scaleColumns } from "./dora.js";
import { biasRows } from "./lora-bias.js";

/** A linear layer: y = x Wᵀ + bias. */
export class Linear extends Adaptable {
  weight: Weight;
  bias: Tensor | undefined;

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
    super.dispose();
    this.weight.dispose();
    this.bias?.dispose();
  }
}

/** How a forward pass runs: shared by all modules of it. */
export interface ForwardMode {
  adapters?: AdapterSelection;
  /** Dropout of adapters is active. */
  training?: boolean;
  /** Operands of products rounded to bfloat16. */
  bf16?: boolean;
}

/**
 * The grouped op: linears that read the same x [T, in] in one call. `path` names the group for its dropout mask; `residual` is added to what
 * each gives.
 * Rows of their own adapters are for inference: training refuses them as PEFT does (UNSUPPORTED).
 */
export function linear(x: Tensor, layers: readonly Linear[], mode: ForwardMode = {}, path = "", residual?: Tensor): Tensor[] {
  return grouped(x, layers, mode, path, { residual });
}

/** activation(gate(x)) * up(x), otherwise as {@link linear}. */
export function gated(x: Tensor, gate: Linear, up: Linear, activation: Activation, mode: ForwardMode, path: string): Tensor {
  return grouped(x, [gate, up], mode, path, { activation })[0]!;
}

/** What becomes of the sums: a residual is added, or two of them become a gated linear unit, which is then the only result. */
interface Ending {
  residual?: Tensor | undefined;
  activation?: Activation;
}

function grouped(x: Tensor, layers: readonly Linear[], mode: ForwardMode, path: string, ending: Ending): Tensor[] {
  const { residual } = ending;
  const selection = mode.adapters ?? BASE_ONLY;
  if ("rows" in selection) {
    if (mode.training) {
      throw new LowrankError("UNSUPPORTED", "[linear] a batch with adapters by row cannot train", {
        hint: "Train one adapter after the other, or run the mixed batch without training.",
      });
    }
    const used = layers.flatMap((layer) => layer.adapters.of(namesOf(selection)));
    if (used.every((part) => part.isPair)) return mixedRows(x, layers, selection.rows, mode, ending);
  }
  const slots = layers.map(({ adapters }) => adapters);
  return byRange(selection, slots, residual ? [x, residual] : [x], ([x, residual], names) =>
    sameRows(x!, layers, names, mode, path, { ...ending, residual }),
  );
}

/** The fused call, and what `rest` does to y of layer i, which is undefined where nothing is left to do. */
function finished(
  x: Tensor,
  group: readonly LinearLayer[],
  options: LinearOptions,
  activation: Activation | undefined,
  rest: readonly (((y: Tensor) => Tensor) | undefined)[],
): Tensor[] {
  const [gate, up] = group;
  if (activation && rest.every((step) => !step)) return [gatedLinear(x, [gate!, up!], activation, options)];
  const ys = linearGroup(x, group, options).map((y, i) => rest[i]?.(y) ?? y);
  return activation ? [glu(ys[0]!, ys[1]!, activation)] : ys;
}

/** Each range of rows with its own pair, in one product. */
function mixedRows(
  x: Tensor,
  layers: readonly Linear[],
  ranges: readonly { begin: number; end: number; name: string | null }[],
  { bf16 = false }: ForwardMode,
  { residual, activation }: Ending,
): Tensor[] {
  const rows = x.shape[0] ?? 0;
  for (const { begin, end } of ranges) {
    if (begin < 0 || end > rows)
      throw new LowrankError("SHAPE_MISMATCH", `[linear] rows ${begin} to ${end} do not lie in the ${rows} rows of x`);
  }
  const pairOf = (layer: Linear, name: string | null) => (name === null ? undefined : layer.adapters.parts.get(name)?.pair);
  const group = layers.map((layer): LinearLayer => {
    const segments = ranges.flatMap(({ begin, end, name }) => {
      const pair = pairOf(layer, name);
      return pair ? [segmentOf(pair.delta(), begin, end)] : [];
    });
    return { weight: layer.weight, bias: layer.bias, segments, residual };
  });
  const rest = layers.map((layer) => {
    const biased = ranges.filter(({ name }) => pairOf(layer, name)?.bias);
    if (biased.length === 0) return undefined;
    return (y: Tensor) =>
      biased.reduce((sum, { begin, end, name }) => {
        const { bias, scale } = pairOf(layer, name)!;
        return add(sum, biasRows(bias!, scale, rows, begin, end));
      }, y);
  });
  return finished(x, group, { bf16 }, activation, rest);
}

/**
 * The same adapters on all rows: the first one's pair rides in the fused call, the others follow in their order, which matters only to
 * DoRA: it turns what is there when its turn comes.
 */
function sameRows(
  x: Tensor,
  layers: readonly Linear[],
  names: readonly string[],
  { bf16 = false, training = false }: ForwardMode,
  path: string,
  { residual, activation }: Ending,
): Tensor[] {
  if (layers.every(({ adapters }) => adapters.of(names).length === 0)) {
    const group = layers.map(({ weight, bias }): LinearLayer => ({ weight, bias, segments: [], residual }));
    return finished(x, group, { bf16 }, activation, []);
  }
  const rows = x.shape[0] ?? 0;
  const [first] = names;
  const plans = layers.map((layer) => {
    const parts = layer.adapters.of(names);
    const [weight, bias] = contentWith(layer, parts);
    const leading = first === undefined ? undefined : layer.adapters.parts.get(first)?.pair;
    const turns = parts.some(({ pair }) => pair?.magnitude);
    return { parts, weight, bias, riding: leading?.magnitude ? undefined : leading, turns };
  });
  // PEFT's lora_dropout belongs to the adapter: its pairs agree.
  const leading = layers.flatMap(({ adapters }) => adapters.of(names.slice(0, 1))).find(({ pair }) => pair)?.pair;
  const p = training ? (leading?.dropout ?? 0) : 0;
  const key = p > 0 ? nextKey(path) : 0n;
  const group = plans.map(({ weight, bias, riding, turns }): LinearLayer => {
    // DoRA turns what it finds, which the residual is no part of.
    return { weight, bias, segments: riding ? [segmentOf(riding.delta(), 0, rows)] : [], residual: turns ? undefined : residual };
  });
  const dropped = p > 0 && plans.some(({ turns }) => turns) ? dropout(x, p, key) : undefined;
  const rest = plans.map(({ parts, weight, bias, riding, turns }) => {
    if (parts.every(({ rows, offset, pair }) => !rows && !offset && (!pair || (pair === riding && !pair.bias)))) return undefined;
    return (product: Tensor) => {
      let y = product;
      const plus = (delta: Delta) => add(y, productWith(x, delta, bf16));
      for (const { rows } of parts) if (rows) y = plus(rows.delta(weight.dense ?? weight.dequantize()));
      for (const part of parts) {
        const { pair, offset } = part;
        if (offset) y = plus(offset.delta());
        if (pair?.magnitude) y = turned(y, x, dropped, weight, bias, part, bf16);
        else if (pair && pair !== riding) {
          if (training && pair.dropout > 0) {
            throw new LowrankError("UNSUPPORTED", "[linear] several adapters at once cannot train with dropout", {
              hint: "Set lora_dropout to 0, or activate one adapter.",
            });
          }
          y = plus(pair.delta());
        }
        if (pair?.bias) y = add(y, biasRows(pair.bias, pair.scale, rows, 0, rows));
      }
      return turns && residual ? add(y, residual) : y;
    };
  });
  return finished(x, group, { bf16, ...(p > 0 ? { dropout: { p, key } } : {}) }, activation, rest);
}

/** scale · (x aᵀ) bᵀ. */
const productWith = (x: Tensor, { a, b, scale: factor }: Delta, bf16: boolean) =>
  scale(matmulTransposed(matmulTransposed(x, a, bf16), b, bf16), factor);

/**
 * y with DoRA: each output but for the bias, what acted before included, times the factor that brings its row of W + scale · b a to the
 * magnitude. Under dropout, x being `dropped`, only the base's own part turns, as in PEFT.
 */
function turned(
  y: Tensor,
  x: Tensor,
  dropped: Tensor | undefined,
  weight: Weight,
  bias: Tensor | undefined,
  { pair, offset }: AdapterPart,
  bf16: boolean,
): Tensor {
  const delta = pair!.delta();
  const factors = pair!.factors(weight, () => {
    const matrix = () => directed(weight.dequantize("float32"), offset?.delta(), delta);
    return gain(
      pair!.magnitude!,
      noGrad(() => scope(matrix)),
    );
  });
  const change = productWith(dropped ?? x, delta, bf16);
  if (dropped) {
    let base = linearGroup(dropped, [{ weight, bias: undefined, segments: [] }], { bf16 })[0]!;
    if (offset) base = add(base, productWith(dropped, offset.delta(), bf16));
    return add(y, add(scaleColumns(add(base, change), factors), scale(base, -1)));
  }
  const rows = x.shape[0]!;
  const plain = bias ? add(y, biasRows(bias, -1, rows, 0, rows)) : y;
  const all = scaleColumns(add(plain, change), factors);
  return bias ? add(all, biasRows(bias, 1, rows, 0, rows)) : all;
}

/** Weight and bias of a linear with these parts: the copy of one that has one, else its own. */
export function contentWith(layer: Linear, parts: readonly AdapterPart[]): [weight: Weight, bias: Tensor | undefined] {
  const weight = parts.find((part) => part.weight)?.matrix ?? layer.weight;
  return [weight, parts.find((part) => part.bias)?.bias ?? layer.bias];
}

function segmentOf({ a, b, scale }: Delta, rowBegin: number, rowEnd: number): LoraSegment {
  return { rowBegin, rowEnd, a, b, scale };
}
