import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch } from "./kernel.js";

export interface RopeTableOptions {
  scaling?: number;
  /** Where the rotations are written; default: a new tensor. */
  into?: Tensor;
}

/**
 * The rotations of T positions: float32 [T, 2h], h cosines, then h sines of position * invFreq, both times `scaling`
 * (YaRN's attention factor). Made once per forward pass. positions int32 [T], invFreq float32 [h].
 */
export function ropeTable(positions: Tensor, invFreq: Tensor, { scaling = 1, into }: RopeTableOptions = {}): Tensor {
  const table = into ?? Tensor.empty([positions.size, 2 * invFreq.size], { device: positions.device });
  enqueue(table, (k, d) => k.ropeTable(d, table.handle, positions.handle, invFreq.handle, scaling));
  return table;
}

/** Rotary embedding (Su et al. 2021), halves paired as in transformers: x float32 [T, H, D], the first 2h dimensions rotated. */
export const rope = (x: Tensor, table: Tensor): Tensor => ropeOp({ x, table }, undefined);

const ropeOp = defineOp<{ x: Tensor; table: Tensor }, undefined, { table: Tensor }, Tensor>({
  name: "rope",
  forward({ x, table }, _attrs, save) {
    if (x.shape.length !== 3) throw mismatch("rope", "x", "[T, H, D]", x);
    if (table.shape[0] !== x.shape[0]) throw mismatch("rope", "table", `[${x.shape[0]}, 2h], a row per token`, table);
    save({ table });
    const y = Tensor.empty(x.shape, { device: x.device });
    enqueue(y, (k, d) => k.rope(d, y.handle, x.handle, table.handle, 0));
    return y;
  },
  backward([dy], { table }, sink, { x }) {
    const dx = Tensor.empty(dy!.shape, { device: dy!.device });
    enqueue(dx, (k, d) => k.rope(d, dx.handle, dy!.handle, table.handle, 1));
    sink.give(x, dx);
  },
});
