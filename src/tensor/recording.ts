import type { Device } from "./device.js";
import { native } from "./native-errors.js";
import { scope } from "./scope.js";
import type { Tensor } from "./tensor.js";

/**
 * Ops enqueued again and again in one call, without the JavaScript between them: for work that repeats on the same tensors, of which only
 * the values change. It keeps the memory of every tensor that its ops use until `dispose()`.
 */
export class Recording {
  readonly #device: Device;
  readonly #handle: number;
  /** What the recorded ops write last; owned by the recording. */
  readonly output: Tensor;

  /** Records the ops that `body` enqueues; none of them runs before {@link Recording.replay}. @throws what `body` throws. */
  constructor(device: Device, body: () => Tensor) {
    let output: Tensor | undefined;
    const handle = native(() =>
      device.addon.record(device.number, () => {
        output = scope(body).keep();
      }),
    );
    this.#device = device;
    this.#handle = handle;
    this.output = output!;
  }

  replay(): void {
    native(() => this.#device.addon.replay(this.#handle));
  }

  dispose(): void {
    if (this.output.disposed) return;
    this.output.dispose();
    native(() => this.#device.addon.freeRecording(this.#handle));
  }
}
