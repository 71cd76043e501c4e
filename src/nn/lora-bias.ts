import { defineOp } from "../autograd/op.js";
import { matmul } from "../ops/matmul.js";
import { Tensor } from "../tensor/tensor.js";

/**
 * factor · bias (float32 [out]) on the rows [begin, end), zero on the others: float32 [rows, out]. What PEFT's lora_bias adds, after the
 * dropout, which therefore does not touch it.
 */
export function biasRows(bias: Tensor, factor: number, rows: number, begin: number, end: number): Tensor {
  const factors = new Float32Array(rows).fill(factor, begin, end);
  return biasRowsOp({ bias, column: Tensor.from(factors, [rows, 1], { device: bias.device }) }, undefined);
}

const biasRowsOp = defineOp<{ bias: Tensor; column: Tensor }, undefined, { column: Tensor }, Tensor>({
  name: "biasRows",
  forward({ bias, column }, _attrs, save) {
    save({ column });
    return matmul(column, bias.reshape(1, bias.size));
  },
  backward([dy], { column }, sink, { bias }) {
    sink.give(bias, matmul(column.reshape(1, column.size), dy!));
  },
});
