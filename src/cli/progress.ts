import { formatBytes } from "../io/space.js";
import type { LoadProgress } from "../models/from-pretrained.js";
import { ProgressBar } from "./output.js";

const doneSince = (begun: number) => `done in ${((Date.now() - begun) / 1000).toFixed(1)} s`;

/** Shows what `fromPretrained` does: one bar for the download, one for loading. `finish` ends the line. */
export function loadingBar(name: string): { onProgress: (progress: LoadProgress) => void; finish: () => void } {
  let phase: LoadProgress["phase"] | undefined;
  let bar: ProgressBar | undefined;
  const begun = Date.now();
  return {
    onProgress: (progress) => {
      if (progress.phase !== phase) {
        bar?.finish("done");
        phase = progress.phase;
        bar = new ProgressBar(phase === "download" ? `Downloading ${name}` : `Loading ${name}`);
      }
      bar?.update(progress.done / Math.max(1, progress.total), `${formatBytes(progress.done)} of ${formatBytes(progress.total)}`);
    },
    finish: () => bar?.finish(doneSince(begun)),
  };
}

/** Shows how far the start of an adapter is that is taken from the base's matrices. */
export function startingBar(): { onProgress: (progress: { done: number; total: number }) => void; finish: () => void } {
  const bar = new ProgressBar("Taking the start from the base");
  const begun = Date.now();
  return {
    onProgress: ({ done, total }) => bar.update(done / Math.max(1, total), `${done} of ${total} matrices`),
    finish: () => bar.finish(doneSince(begun)),
  };
}
