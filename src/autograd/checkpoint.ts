import { currentOrdinal, replayFrom } from "../tensor/random.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import { defineOp } from "./op.js";
import { noGrad, Tape } from "./tape.js";

type Block = (...xs: Tensor[]) => Tensor[];

/**
 * Runs `block` keeping only its inputs; backward runs it again and differentiates that. Random draws (dropout) are the same
 * both times. `captures` are the other tensors the block uses: its parameters, and what was made for this pass. Gradients of
 * parameters among them, and of `xs`, are computed; with none of either nothing is recorded.
 */
export function checkpoint(block: Block, xs: readonly Tensor[], captures: readonly Tensor[] = []): Tensor[] {
  return checkpointOp({ xs, captures }, { block, ordinal: currentOrdinal() });
}

const checkpointOp = defineOp<
  { xs: readonly Tensor[]; captures: readonly Tensor[] },
  { block: Block; ordinal: number },
  { xs: readonly Tensor[]; captures: readonly Tensor[] },
  Tensor[]
>({
  name: "checkpoint",
  forward({ xs, captures }, { block }, save) {
    save({ xs, captures });
    return scope(() => noGrad(() => block(...xs)));
  },
  backward(dys, { xs }, sink, _inputs, { block, ordinal }) {
    const tape = new Tape({ inputs: new Set(xs), sink });
    try {
      const ys = replayFrom(ordinal, () => scope(() => tape.record(() => block(...xs))));
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
