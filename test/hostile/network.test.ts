import dns from "node:dns";
import { writeFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { syncBuiltinESMExports } from "node:module";
import net from "node:net";
import { join } from "node:path";
import tls from "node:tls";
import { afterAll, beforeAll, expect, it } from "vitest";
import { filesOf } from "../fuzz/files.js";
import { ADAPTER, ADAPTER_WEIGHTS, modelFiles, tokenizerFiles, weightsOf } from "../fuzz/tiny.js";
import { tempFolder } from "../io/files.js";

const tried: string[] = [];
const undo: (() => void)[] = [];

/** Whatever could reach a network says so and fails. */
beforeAll(() => {
  const trap = (target: object, name: string, label: string) => {
    const original = Reflect.get(target, name);
    Reflect.set(target, name, () => {
      tried.push(label);
      throw new Error(`${label} was called`);
    });
    undo.push(() => Reflect.set(target, name, original));
  };
  for (const name of ["lookup", "resolve"]) trap(dns, name, `dns.${name}`);
  trap(net.Socket.prototype, "connect", "net.Socket.connect");
  for (const name of ["connect"]) trap(tls, name, `tls.${name}`);
  for (const name of ["request", "get"]) trap(http, name, `http.${name}`);
  for (const name of ["request", "get"]) trap(https, name, `https.${name}`);
  trap(globalThis, "fetch", "fetch");
  syncBuiltinESMExports();
});
afterAll(() => {
  for (const restore of undo) restore();
  syncBuiltinESMExports();
});

it("models, tokenizers, adapters, data, training and saving in folders reach no network", async () => {
  const { AutoModelForCausalLM, AutoTokenizer, PeftModel, Trainer, loadRows, buildExamples } = await import("../../src/index.js");
  const folder = tempFolder();
  const put = (files: Record<string, unknown>) => {
    for (const [name, content] of filesOf(files)) writeFileSync(join(folder, name), content);
  };
  put({
    ...modelFiles(),
    ...tokenizerFiles("bytelevel"),
    "adapter_config.json": ADAPTER,
    "adapter_model.safetensors": weightsOf(ADAPTER_WEIGHTS),
  });
  put({ "rows.jsonl": '{"text":"one two three"}\n{"text":"four five"}\n' });
  const tokenizer = await AutoTokenizer.fromPretrained(folder);
  const { examples } = await buildExamples(await loadRows({ dataset: join(folder, "rows.jsonl"), stage: "pt" }), tokenizer, {
    cutoffLen: 16,
  });
  const model = await AutoModelForCausalLM.fromPretrained(folder);
  const peft = await PeftModel.fromPretrained(model, folder, { isTrainable: true });
  try {
    const fitting = examples.map((example) => ({
      ...example,
      inputIds: example.inputIds.map((id) => id % 384),
      labels: example.labels.map((id) => id % 384),
    }));
    await new Trainer({ model: peft, dataset: fitting, args: { outputDir: join(folder, "out"), maxSteps: 1 } }).train();
    await peft.savePretrained(join(folder, "saved"));
    await model.generateIds([[1, 2]], { maxNewTokens: 2 });
  } finally {
    peft.dispose();
  }
  expect(tried).toEqual([]);
  // The traps do catch: a Hub id that is not cached is asked for.
  await expect(AutoModelForCausalLM.fromPretrained("org/name", { cacheDir: folder, offline: false })).rejects.toMatchObject({
    code: "HUB",
  });
  expect(tried).toEqual(["fetch"]);
});
