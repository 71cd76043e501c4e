import { currentOrdinal, replayFrom } from "../tensor/random.js";
import type { Tensor } from "../tensor/tensor.js";
import { defineOp } from "./op.js";
import { noGrad, Tape } from "./tape.js";

type Block = (...xs: Tensor[]) => Tensor[];

/**
 * Runs `block` keeping only its inputs; backward runs it again and differentiates that. Random draws (dropout) are the same
 * both times. `captures` are the parameters the block uses; one of them or of `xs` must need a gradient for it to be recorded.
 */
export function checkpoint(block: Block, xs: readonly Tensor[], captures: readonly Tensor[] = []): Tensor[] {
  return checkpointOp({ xs, captures }, { block, ordinal: currentOrdinal() });
}

const checkpointOp = defineOp<{ xs: readonly Tensor[]; captures: readonly Tensor[] }, { block: Block; ordinal: number }, { xs: readonly Tensor[] }, Tensor[]>({
  name: "checkpoint",
  forward({ xs }, { block }, save) {
    save({ xs });
    return noGrad(() => block(...xs));
  },
  backward(dys, { xs }, sink, _inputs, { block, ordinal }) {
    const tape = new Tape({ inputs: new Set(xs), sink });
    try {
      const ys = replayFrom(ordinal, () => tape.record(() => block(...xs)));
      for (const [i, y] of ys.entries()) {
        const dy = dys[i];
        if (dy) tape.seed(y, dy);
      }
      tape.backward();
    } finally {
      tape.dispose();
    }
  },
});
