import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { AutoModelForCausalLM, resolveConfig } from "../../src/models/registry.js";
import { type Device, getDevice } from "../../src/tensor/device.js";
import { goldenFolder } from "../golden/folder.js";

const llama = join(goldenFolder("models"), "llama", "model");

/** A bfloat16 checkpoint with the same 4 MiB of values over and over, written without ever being in memory. */
function writeBigCheckpoint(folder: string, config: Record<string, unknown>): number {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const { family, config: read } = resolveConfig(config);
  const header: Record<string, unknown> = {};
  let end = 0;
  for (const { name, shape } of family.weights.tensors(read)) {
    const begin = end;
    end += 2 * shape.reduce((a, b) => a * b, 1);
    header[name] = { dtype: "BF16", shape, data_offsets: [begin, end] };
  }
  const text = JSON.stringify(header);
  const json = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(json.length));
  // Values of about ±0.02: exponent bits of bfloat16 just above 0x3c00.
  const values = Buffer.from(
    Uint16Array.from({ length: 2 << 20 }, (_, i) => ((i * 40503) & 0x8000) | (0x3c00 + ((i * 2654435761) >>> 24))).buffer,
  );
  const file = openSync(join(folder, "model.safetensors"), "w");
  writeSync(file, length);
  writeSync(file, json);
  for (let left = end; left > 0; left -= values.length) writeSync(file, values, 0, Math.min(values.length, left));
  closeSync(file);
  return end;
}

describe("loading", () => {
  let folder: string;
  let device: Device;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), "lowrank-load-"));
    device = getDevice();
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const memory = () => {
    const { live, tensors } = device.memory;
    return { live, tensors };
  };

  it("quantises from disk with memory near the quantised size", async () => {
    const big = join(folder, "big");
    const config = {
      model_type: "llama",
      vocab_size: 512,
      hidden_size: 1024,
      intermediate_size: 4096,
      num_hidden_layers: 4,
      num_attention_heads: 8,
    };
    const fileBytes = writeBigCheckpoint(big, config);
    expect(fileBytes).toBeGreaterThan(130e6);
    device.resetPeak();
    const before = memory();
    const rssBefore = process.memoryUsage().rss;
    let rss = 0;
    const model = await AutoModelForCausalLM.fromPretrained(big, {
      loadIn4bit: true,
      onProgress: () => {
        rss = Math.max(rss, process.memoryUsage().rss);
      },
    });
    const quantised = device.memory.live - before.live;
    const linears = 4 * (4 * 1024 * 1024 + 3 * 1024 * 4096);
    expect(quantised).toBeLessThan(linears * 0.53 + 5e6);
    // Two buffers of 4 MiB, and the float32 statistics of one matrix.
    expect(device.memory.peak - before.live - quantised).toBeLessThan(12e6);
    expect(rss - rssBefore).toBeLessThan(quantised + 40e6);
    model.dispose();
    expect(memory()).toEqual(before);
  });

  describe.skipIf(!existsSync(llama))("what goes wrong leaves nothing behind:", () => {
    const damaged = (name: string, damage: (path: string) => void) => {
      const path = join(folder, name);
      cpSync(llama, path, { recursive: true });
      damage(path);
      return path;
    };
    const refuse = async (path: string, options: Parameters<typeof AutoModelForCausalLM.fromPretrained>[1], message: RegExp) => {
      const before = memory();
      await expect(AutoModelForCausalLM.fromPretrained(path, options)).rejects.toThrow(message);
      expect(memory()).toEqual(before);
    };

    it("a folder that does not exist", () => refuse(join(folder, "none/at/all"), {}, /neither a folder nor a Hub id/));
    it("no config.json", () =>
      refuse(
        damaged("noconfig", (path) => rmSync(join(path, "config.json"))),
        {},
        /config\.json does not exist/,
      ));
    it("a file cut short", () =>
      refuse(
        damaged("short", (path) => truncateSync(join(path, "model.safetensors"), 300_000)),
        {},
        /cut short|holds .* bytes of data/,
      ));
    it("a config of another size", () =>
      refuse(
        damaged("size", (path) =>
          writeFileSync(
            join(path, "config.json"),
            readFileSync(join(llama, "config.json"), "utf8").replace('"vocab_size": 320', '"vocab_size": 321'),
          ),
        ),
        {},
        /2 of the wrong form: .*is \[320,64\] \(expected \[321,64\]\)/,
      ));
    it("values that are not finite, when they are to be quantised", () => {
      const path = damaged("nan", (path) => {
        const file = readFileSync(join(path, "model.safetensors"));
        const size = Number(file.readBigUInt64LE(0));
        const begin = JSON.parse(file.toString("utf8", 8, 8 + size))["model.layers.1.mlp.up_proj.weight"].data_offsets[0];
        file.writeFloatLE(Number.NaN, 8 + size + begin + 40);
        writeFileSync(join(path, "model.safetensors"), file);
      });
      return refuse(path, { loadIn4bit: true }, /1 tensors hold NaN or infinite values: model\.layers\.1\.mlp\.up_proj\.weight/);
    });
    it("an abort half way", async () => {
      const abort = new AbortController();
      await refuse(
        llama,
        { signal: abort.signal, onProgress: ({ done, total }) => done > total / 2 && abort.abort(new Error("enough")) },
        /enough/,
      );
    });
    it("no memory left, wherever it runs out", async () => {
      for (const loadIn4bit of [false, true])
        for (const n of [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 25]) {
          device.addon.failAllocation(n);
          await refuse(llama, { loadIn4bit }, /memory/i);
          device.addon.failAllocation(0);
        }
    });
    it("an unknown dtype", () => refuse(llama, { dtype: "int8" as "auto" }, /dtype must be/));
  });

  it.skipIf(!existsSync(llama))("gives all memory back on dispose, which may come twice", async () => {
    const before = memory();
    const model = await AutoModelForCausalLM.fromPretrained(llama);
    expect(memory().live).toBeGreaterThan(before.live);
    model.dispose();
    model.dispose();
    expect(memory()).toEqual(before);
  });
});
