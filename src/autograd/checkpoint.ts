import { currentOrdinal, replayFrom } from "../tensor/random.js";
import { scope } from "../tensor/scope.js";
import type { Tensor } from "../tensor/tensor.js";
import type { ActivationOffload } from "./offload.js";
import { defineOp } from "./op.js";
import { noGrad, type Sink, Tape } from "./tape.js";

type Block = (...xs: Tensor[]) => Tensor[];

/**
 * Runs `block` keeping only its inputs; backward runs it again and differentiates that. Random draws (dropout) are the same
 * both times. `captures` are the other tensors the block uses: its parameters, and what was made for this pass. Gradients of
 * parameters among them, and of `xs`, are computed; with none of either nothing is recorded. With `offload` the inputs wait in the host's
 * memory: all blocks of a pass share one, and each must be undone in its turn.
 */
export function checkpoint(
  block: Block,
  xs: readonly Tensor[],
  captures: readonly Tensor[] = [],
  offload?: ActivationOffload,
): Tensor[] {
  return checkpointOp({ xs, captures }, { block, ordinal: currentOrdinal(), offload });
}

const checkpointOp = defineOp<
  { xs: readonly Tensor[]; captures: readonly Tensor[] },
  { block: Block; ordinal: number; offload: ActivationOffload | undefined },
  { xs: readonly Tensor[]; captures: readonly Tensor[] },
  Tensor[]
>({
  name: "checkpoint",
  forward({ xs, captures }, { block, offload }, save, recording) {
    save({ xs: recording && offload ? offload.push(xs) : xs, captures });
    return scope(() => noGrad(() => block(...xs)));
  },
  backward(dys, saved, sink, { xs: inputs }, { block, ordinal, offload }) {
    const xs = offload ? offload.pop(saved.xs) : saved.xs;
    for (const [i, x] of xs.entries()) x.requiresGrad = inputs[i]!.requiresGrad;
    const tape = new Tape({ inputs: new Set(xs), sink: offload ? renamed(sink, xs, inputs) : sink });
    try {
      const ys = replayFrom(ordinal, () => scope(() => tape.record(() => block(...xs))));
      for (const [i, y] of ys.entries()) {
        const dy = dys[i];
        if (dy) tape.seed(y, dy);
      }
      tape.backward();
    } finally {
      tape.dispose();
      offload?.drop();
    }
  },
});

/** A sink that takes gradients of `xs` for `inputs`. */
function renamed(sink: Sink, xs: readonly Tensor[], inputs: readonly Tensor[]): Sink {
  const names = new Map(xs.map((x, i) => [x, inputs[i]!]));
  const name = (x: Tensor) => names.get(x) ?? x;
  return {
    needs: (x) => sink.needs(x && name(x)),
    into: (x) => sink.into(name(x)),
    onto: (x) => sink.onto(name(x)),
    give: (x, gradient) => sink.give(name(x), gradient),
  };
}
