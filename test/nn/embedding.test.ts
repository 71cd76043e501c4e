import { expect, it } from "vitest";
import { AdapterPart, LoraPair } from "../../src/nn/adapter-part.js";
import { Embedding } from "../../src/nn/embedding.js";
import { scope } from "../../src/tensor/scope.js";
import { Tensor } from "../../src/tensor/tensor.js";
import { leavesNothing } from "../tensor/live.js";

it("multiplies rows and what an adapter adds with the factor of the math", () =>
  leavesNothing(async () => {
    const table = new Embedding(Tensor.from([1, 2, 3, 4, 5, 6], [3, 2]), { float32: 3, bfloat16: 10 });
    // PEFT's lora_embedding_B [d, r] and lora_embedding_A [r, vocab]: token 2 gets 0.5 * 4 * (1, -1).
    const pair = new LoraPair(Tensor.from([1, -1], [2, 1]), Tensor.from([0, 0, 4], [1, 3]), 0.5, 0, undefined, true);
    table.adapters.parts.set("a", new AdapterPart({ pair }));
    const rows = async (mode: Parameters<Embedding["forward"]>[1]) => {
      using ids = Tensor.from(Int32Array.of(2, 0), [2], { dtype: "int32" });
      using y = scope(() => table.forward(ids, mode));
      return [...(await y.readFloat32())];
    };
    expect(await rows({})).toEqual([15, 18, 3, 6]);
    expect(await rows({ bf16: true })).toEqual([50, 60, 10, 20]);
    expect(await rows({ adapters: { names: ["a"] } })).toEqual([21, 12, 3, 6]);
    expect(await rows({ bf16: true, adapters: { names: ["a"] } })).toEqual([70, 40, 10, 20]);
    table.dispose();
  }));
