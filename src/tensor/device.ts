import { LowrankError } from "../errors.js";
import { loadAddon } from "../native/load.js";
import { isPluginDevice, openDevice, realDevice } from "../native/plugin.js";
import type { Addon, DeviceInfo, Kernels, MemoryStats } from "../native/surface.js";
import { native, nativeAsync } from "./native-errors.js";

/** `LR_SLOTS` of native/abi/backend.h. */
const SLOTS = 32;

/** A device: one ordered stream of work, its memory, and its kernels. */
export class Device {
  readonly name: string;
  /** Number native code knows the device by; first argument of every kernel. */
  readonly number: number;
  readonly info: DeviceInfo;
  readonly kernels: Kernels;
  readonly addon: Addon;
  /** Transfer slots that nobody uses. */
  readonly #slots = Array.from({ length: SLOTS }, (_, i) => i);
  #memoryBudget: number | undefined;

  constructor(name: string, addon: Addon) {
    this.name = name;
    this.addon = addon;
    this.number = opened(name, addon);
    this.info = addon.deviceInfo(this.number);
    this.kernels = addon.kernels;
  }

  /** Counts memory and computes nothing: what is read from it is no result. */
  get dry(): boolean {
    return realDevice(this.name) !== this.name;
  }

  /** Bytes in use, the largest number so far, bytes of the host in use for transfers, bytes kept for reuse; number of tensors alive. */
  get memory(): MemoryStats {
    return this.addon.memory(this.number);
  }

  /** The most bytes the device takes from the system, tensors, scratch and cached memory together; undefined: as many as there are. */
  get memoryBudget(): number | undefined {
    return this.#memoryBudget;
  }

  set memoryBudget(bytes: number | undefined) {
    if (bytes !== undefined && !(Number.isSafeInteger(bytes) && bytes > 0))
      throw new LowrankError("INVALID_ARGUMENT", `memoryBudget must be a whole number of bytes above 0, not ${bytes}`);
    this.#memoryBudget = bytes;
    native(() => this.addon.limitMemory(this.number, bytes ?? 0));
  }

  /** A slot for background copies (`kernels.prefetch`, `writeBack`, `wait`), to be given back behind a wait. */
  takeSlot(): number {
    const slot = this.#slots.shift();
    if (slot === undefined) throw new LowrankError("OUT_OF_MEMORY", `[transfers] all ${SLOTS} slots of ${this.name} are in use`);
    return slot;
  }

  giveSlot(slot: number): void {
    this.#slots.push(slot);
  }

  /** Starts the peak of `memory` anew from what is live. */
  resetPeak(): void {
    this.addon.resetPeak(this.number);
  }

  /** Resolves when everything enqueued so far is done; rejects with the first asynchronous error, naming its op. */
  synchronize(): Promise<void> {
    return nativeAsync(() => this.addon.synchronize(this.number));
  }
}

/** Opens a device. Variants that this machine cannot run, which LOWRANK_ISA may ask for, are as absent as unknown ones. */
function opened(name: string, addon: Addon): number {
  try {
    return native(() => openDevice(addon, name));
  } catch (cause) {
    if (!(cause instanceof LowrankError) || ["OUT_OF_MEMORY", "NATIVE", "DEVICE_NOT_FOUND"].includes(cause.code)) throw cause;
    throw new LowrankError("DEVICE_NOT_FOUND", cause.message, { hint: "Choose another device, or unset LOWRANK_ISA.", cause });
  }
}

const devices = new Map<string, Device>();

/**
 * The device of that name; the same object for the same name.
 * Throws DEVICE_NOT_FOUND when this build or machine has none.
 */
export function getDevice(name = "cpu"): Device {
  const known = devices.get(name);
  if (known) return known;
  if (realDevice(name) !== "cpu" && !isPluginDevice(realDevice(name)))
    throw new LowrankError("DEVICE_NOT_FOUND", `There is no device '${name}'`, { hint: "Devices are 'cpu' and 'cuda:0'." });
  const device = new Device(name, loadAddon());
  devices.set(name, device);
  return device;
}
