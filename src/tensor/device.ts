import { LowrankError } from "../errors.js";
import { loadAddon } from "../native/load.js";
import { isPluginDevice, openDevice } from "../native/plugin.js";
import type { Addon, DeviceInfo, Kernels, MemoryStats } from "../native/surface.js";
import { native, nativeAsync } from "./native-errors.js";

/** A device: one ordered stream of work, its memory, and its kernels. */
export class Device {
  readonly name: string;
  /** Number native code knows the device by; first argument of every kernel. */
  readonly number: number;
  readonly info: DeviceInfo;
  readonly kernels: Kernels;
  readonly addon: Addon;

  constructor(name: string, addon: Addon) {
    this.name = name;
    this.addon = addon;
    this.number = opened(name, addon);
    this.info = addon.deviceInfo(this.number);
    this.kernels = addon.kernels;
  }

  /** Bytes in use, the largest number so far, bytes of the host in use for transfers, bytes kept for reuse; number of tensors alive. */
  get memory(): MemoryStats {
    return this.addon.memory(this.number);
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
  if (name !== "cpu" && !isPluginDevice(name))
    throw new LowrankError("DEVICE_NOT_FOUND", `There is no device '${name}'`, { hint: "Devices are 'cpu' and 'cuda:0'." });
  const device = new Device(name, loadAddon());
  devices.set(name, device);
  return device;
}
