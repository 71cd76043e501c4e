import { defineOp } from "../autograd/op.js";
import { Tensor } from "../tensor/tensor.js";
import { enqueue, mismatch } from "./kernel.js";

/**
 * scale * table[ids]: table [vocab, d] of any floating dtype, ids int32 [T] → float32 [T, d]. A gather of rows as well.
 * Repeated ids accumulate in the gradient, in ascending order.
 */
export const embedding = (table: Tensor, ids: Tensor, factor = 1): Tensor => embeddingOp({ table, ids }, factor);

const embeddingOp = defineOp<{ table: Tensor; ids: Tensor }, number, { ids: Tensor }, Tensor>({
  name: "embedding",
  forward({ table, ids }, factor, save) {
    if (table.shape.length !== 2) throw mismatch("embedding", "table", "[vocab, d]", table);
    if (!(ids.dtype === "int32" && ids.shape.length === 1)) throw mismatch("embedding", "ids", "int32 [T]", ids);
    save({ ids });
    const y = Tensor.empty([ids.shape[0]!, table.shape[1]!], { device: table.device });
    enqueue(y, (k, d) => k.embedding(d, y.handle, table.handle, ids.handle, factor));
    return y;
  },
  backward([dy], { ids }, sink, { table }, factor) {
    const { tensor, accumulate } = sink.into(table);
    enqueue(tensor, (k, d) => {
      if (!accumulate) k.fill(d, tensor.handle, 0);
      k.embeddingGrad(d, tensor.handle, dy!.handle, ids.handle, factor);
    });
  },
});
