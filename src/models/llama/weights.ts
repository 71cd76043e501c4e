import { decoderTensors, IGNORED_TENSORS, type WeightLayout } from "../layout.js";

export const llamaWeights: WeightLayout = { tensors: decoderTensors, ignored: IGNORED_TENSORS };
