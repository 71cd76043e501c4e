const asked = process.env.LOWRANK_TEST_DEVICES;
/** The device that runs the CUDA kernels: the emulated one, or the GPU that LOWRANK_TEST_DEVICES names. */
export const cuda = asked?.startsWith("cuda") ? asked : "emu";
