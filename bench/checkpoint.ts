// `npm run bench:checkpoint -- --out FOLDER [--config FILE]`: a sharded bfloat16 checkpoint of random weights in the shapes of a config.json,
// Llama-3-8B's where none is given (16 GB), to measure loading, quantising and steps of models that are too large to ship.
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { LLAMA3_8B } from "../src/cli/bench/model/model.js";
import { tensorBytes } from "../src/io/safetensors-write.js";
import { resolveConfig } from "../src/models/registry.js";
import { writeModelFolder } from "../src/models/save.js";
import { cast } from "../src/ops/copy.js";
import { fillRandom } from "../src/ops/random.js";
import { randomKey } from "../src/tensor/random.js";
import { scope } from "../src/tensor/scope.js";
import { Tensor } from "../src/tensor/tensor.js";

const { values } = parseArgs({ options: { out: { type: "string" }, config: { type: "string" } } });
if (!values.out) {
  console.error("usage: --out FOLDER [--config FILE]");
  process.exit(2);
}
const given: Record<string, unknown> = values.config ? JSON.parse(readFileSync(values.config, "utf8")) : LLAMA3_8B;
const { quantization_config: _, ...config } = given;
const { family, config: model } = resolveConfig(config);

/** Weights as training leaves them, near enough: normal, standard deviation 0.02. Each tensor begins elsewhere in them. */
const POOL = 1 << 23;
const pool = new Uint8Array(2 * POOL);
{
  using normal = Tensor.empty([POOL]);
  fillRandom(normal, { normal: { mean: 0, std: 0.02 } }, randomKey(1, "weights"));
  using rounded = scope(() => cast(normal, "bfloat16"));
  pool.set(new Uint8Array((await rounded.read()).buffer));
}
const ONE_BF16 = [0x80, 0x3f];
const ones = new Uint8Array(1 << 16).map((_, i) => ONE_BF16[i % 2]!);

function* bytes(kind: string, size: number, seed: number): Generator<Uint8Array> {
  const source = kind === "norm" ? ones : pool;
  let at = kind === "norm" ? 0 : (seed * 2_654_435_762) % pool.length;
  for (let left = size; left > 0; at = 0) {
    const part = source.subarray(at, Math.min(source.length, at + left));
    yield part;
    left -= part.length;
  }
}

let shown = 0;
await writeModelFolder(values.out, {
  config,
  generationConfig: {},
  copies: [],
  tensors: family.weights.tensors(model).map(({ name, shape, kind }, i) => ({
    name,
    dtype: "BF16",
    shape,
    async *bytes() {
      yield* bytes(kind, tensorBytes("BF16", shape), i);
    },
  })),
  onProgress: ({ done, total }) => {
    const tenth = Math.floor((10 * done) / total);
    if (tenth > shown) console.error(`${10 * tenth} %`);
    shown = tenth;
  },
});
