// The sections of the suite that a device is held to, in the order they run.

/** Test files of each section; what a line ending in `*` begins with. */
export const TESTS = {
  conformance: ["test/native/kernels-*", "test/emu/attention*", "test/emu/linear.test.ts", "test/emu/head.test.ts"],
  golden: ["test/gpu/golden.gpu.ts"],
  training: ["test/emu/training.test.ts"],
  paged: ["test/optim/paged.test.ts", "test/autograd/offload.test.ts"],
  memory: ["test/gpu/llama.gpu.ts"],
};
/** Programs that print JSON lines. */
export const PROGRAMS = ["bench", "peers"];
export const SECTIONS = [...Object.keys(TESTS), ...PROGRAMS];

const CPU = {
  training: "device cpu is what the others are compared with",
  paged: "device cpu has no memory of its own that state could be paged out of",
};
const BENCH = { emu: "the emulated device has no speed" };

/** Why a section says nothing of a device, or undefined. */
export function skippedOn(section, device) {
  if (device === "cpu") return CPU[section];
  return PROGRAMS.includes(section) ? BENCH[device] : undefined;
}
