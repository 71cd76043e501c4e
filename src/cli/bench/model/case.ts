import { loadAddon } from "../../../native/load.js";
import { Device } from "../../../tensor/device.js";
import type { OpCase } from "../op-case.js";
import { costOf, launchesOf } from "./cost.js";
import type { Gpu } from "./devices.js";
import { Trace } from "./trace.js";

/** What the cost model gives a case in milliseconds, its ops traced on a dry device; undefined for float32 products, which it does not know. */
export function modelledMs(make: (device: Device) => OpCase, gpu: Gpu): number | undefined {
  const trace = new Trace(loadAddon());
  const bench = make(new Device("dry:cpu", trace.addon));
  try {
    if (bench.op.startsWith("linear") && bench.dtype === "float32") return undefined;
    trace.calls.length = 0;
    bench.run();
    const launches = trace.calls.filter(({ op }) => bench.kernels.includes(op)).flatMap((call) => launchesOf(call, trace, gpu));
    return launches.reduce((total, launch) => total + 1000 * costOf(launch, gpu).seconds, 0);
  } finally {
    bench.dispose();
  }
}
