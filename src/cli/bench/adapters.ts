import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { packSequences } from "../../models/batch.js";
import { LoraConfig } from "../../peft/config.js";
import { PeftModel } from "../../peft/peft-model.js";
import { scope } from "../../tensor/scope.js";
import { loadModel } from "../model.js";
import { quantiles, rounded } from "./statistics.js";

export interface AdaptersBenchOptions {
  model: string;
  count: number;
  rank: number;
}

/** Many adapters on one base: time to register each from disk and to switch, and the memory that they take. */
export async function benchAdapters({ model: path, count, rank }: AdaptersBenchOptions): Promise<Record<string, unknown>> {
  const model = await loadModel(path);
  const folder = await mkdtemp(join(tmpdir(), "lowrank-adapters-"));
  const peft = new PeftModel(model);
  try {
    // A snapshot each time.
    const live = () => model.device.memory.live;
    const config = new LoraConfig({ r: rank, loraAlpha: rank, targetModules: ["q_proj", "v_proj"], initLoraWeights: false });
    peft.addAdapter("made", config);
    await peft.savePretrained(folder);
    peft.deleteAdapter("made");
    const adapter = join(folder, "made");
    // The base is hashed once, when it is first asked for.
    await peft.loadAdapter(adapter, "first");
    const base = live();
    const registering: number[] = [];
    const used = process.cpuUsage();
    for (let i = 0; i < count; i++) {
      const begun = performance.now();
      await peft.loadAdapter(adapter, `adapter-${i}`);
      registering.push(performance.now() - begun);
    }
    const { user, system } = process.cpuUsage(used);
    const bytes = (live() - base) / count;
    const switching: number[] = [];
    for (let i = 0; i < count * 10; i++) {
      const name = `adapter-${(i * 7919) % count}`;
      const begun = performance.now();
      peft.setAdapter(name);
      switching.push((performance.now() - begun) * 1000);
    }
    using hidden = scope(() => model.hiddenStates(packSequences([[1, 2, 3]], model.device)));
    await hidden.read();
    const [register, change] = [quantiles(registering), quantiles(switching)];
    return {
      kind: "adapters",
      count,
      rank,
      register_ms: rounded(register.median),
      register_p90_ms: rounded(register.p90),
      // Of all threads, in the kernel too: what other programs do to the clock is not in it.
      register_cpu_ms: rounded((user + system) / 1000 / count),
      register_max_ms: rounded(Math.max(...registering)),
      switch_us: rounded(change.median),
      switch_p90_us: rounded(change.p90),
      bytes_per_adapter: Math.round(bytes),
      parameters_per_adapter: peft.trainable.arena.size,
    };
  } finally {
    peft.dispose();
    await rm(folder, { recursive: true, force: true });
  }
}
