import { join } from "node:path";
import { openSafetensors } from "../../../src/io/safetensors.js";
import { filesOf } from "../files.js";
import type { Format } from "../format.js";
import { weightsOf } from "../tiny.js";

export const format: Format = {
  name: "safetensors",
  seeds: [filesOf({ "x.safetensors": weightsOf({ a: [2, 3], b: [], empty: [0, 7], c: [5] }) })],
  targets: ["x.safetensors"],
  async open(folder) {
    const file = await openSafetensors(join(folder, "x.safetensors"));
    try {
      for (const [name, { begin, end }] of file.tensors) {
        const bytes = await file.read(name);
        if (bytes.length !== end - begin) throw new Error(`${name} has ${bytes.length} bytes instead of ${end - begin}`);
      }
    } finally {
      await file.close();
    }
  },
};
