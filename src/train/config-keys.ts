import type { Json, JsonObject } from "../io/json.js";
import { SCHEDULE_TYPES, type ScheduleType } from "../optim/schedules.js";
import { byteCount, choice, flag, integer, isObject, type Key, key, list, number, orNull, shareOrCount, text } from "./key.js";
import { LORA_KEYS, type LoraKeys } from "./lora-keys.js";
import { OPTIMIZERS, type OptimizerName } from "./optimizer.js";

/** A checked training configuration: LLaMA-Factory's keys in camelCase, its defaults filled in. */
export interface TrainConfig extends LoraKeys {
  modelNameOrPath: string;
  modelRevision: string;
  cacheDir: string | null;
  /** An adapter to go on training. */
  adapterNameOrPath: string | null;
  trainFromScratch: boolean;
  /** 4: quantise while loading (or take the checkpoint's own 4-bit weights). */
  quantizationBit: 4 | null;
  quantizationType: "nf4" | "fp4";
  doubleQuantization: boolean;

  stage: "sft" | "pt";
  finetuningType: "lora" | "full";

  dataset: string[];
  evalDataset: string[] | null;
  datasetDir: string;
  /** Fills {{name}}-like placeholders of a data set. */
  datasetVars: Record<string, string>;
  /** A LLaMA-Factory template name; null: the model's own chat template. */
  template: string | null;
  /** Longest row in tokens, as LLaMA-Factory's parser leaves it: one less when packing was asked for. */
  cutoffLen: number;
  trainOnPrompt: boolean;
  maskHistory: boolean;
  packing: boolean;
  neatPacking: boolean;
  maxSamples: number | null;
  /** A count from 1 on, a share below. */
  valSize: number;
  defaultSystem: string | null;
  enableThinking: boolean | null;
  disableShuffling: boolean;

  outputDir: string;
  overwriteOutputDir: boolean;
  /** true: the newest checkpoint that verifies; text: that one. */
  resumeFromCheckpoint: boolean | string | null;
  doEval: boolean;
  perDeviceTrainBatchSize: number;
  perDeviceEvalBatchSize: number;
  gradientAccumulationSteps: number;
  learningRate: number;
  numTrainEpochs: number;
  /** Optimizer steps; -1: as numTrainEpochs says. */
  maxSteps: number;
  lrSchedulerType: ScheduleType;
  lrSchedulerKwargs: JsonObject;
  /** A count from 1 on, a share of all steps below. */
  warmupSteps: number;
  weightDecay: number;
  /** 0: no clipping. */
  maxGradNorm: number;
  optim: OptimizerName;
  adamBeta1: number;
  adamBeta2: number;
  adamEpsilon: number;
  labelSmoothingFactor: number;
  /** NEFTune: uniform noise in ± alpha / sqrt(width * hidden) on the embeddings; null: none. */
  neftuneNoiseAlpha: number | null;
  seed: number;
  dataSeed: number | null;
  bf16: boolean;
  gradientCheckpointing: boolean;
  /** TRL's key: what recomputed layers start from waits in the host's memory. */
  activationOffloading: boolean;
  /** "cpu" or "cuda:0". */
  device: string;
  /** The most bytes the device takes from the system; null: as many as there are. */
  memoryBudget: number | null;
  /** Steps between log entries, saves and evaluations; below 1 a share of all steps. */
  loggingSteps: number;
  saveSteps: number;
  saveStrategy: "steps" | "epoch" | "no";
  saveTotalLimit: number | null;
  saveOnlyModel: boolean;
  evalStrategy: "steps" | "epoch" | "no";
  evalSteps: number | null;
}

/** Rows of a micro-batch; more are a slip of the keyboard. */
const MAX_BATCH = 2 ** 14;

/** Keys that do something, with LLaMA-Factory's defaults (transformers' where it adds none). */
export const KEYS: Record<keyof TrainConfig, Key> = {
  modelNameOrPath: text(),
  modelRevision: text("main"),
  cacheDir: orNull(text()),
  adapterNameOrPath: orNull(
    key(null, "one adapter (merge several first)", (v) =>
      typeof v === "string" && v.trim() !== "" && !v.includes(",") ? v.trim() : undefined,
    ),
  ),
  trainFromScratch: flag(),
  quantizationBit: orNull(key(null, "4", (v) => (v === 4 ? v : undefined))),
  quantizationType: choice("nf4", ["nf4", "fp4"]),
  doubleQuantization: flag(true),

  stage: choice("sft", ["sft", "pt"]),
  finetuningType: choice("lora", ["lora", "full"]),
  ...LORA_KEYS,

  dataset: list(null),
  evalDataset: orNull(list(null)),
  datasetDir: text("data"),
  datasetVars: key({}, "names with texts", (v) =>
    isObject(v) && Object.values(v as JsonObject).every((x) => typeof x === "string") ? v : undefined,
  ),
  template: orNull(text()),
  cutoffLen: integer(2048, 2),
  trainOnPrompt: flag(),
  maskHistory: flag(),
  packing: flag(),
  neatPacking: flag(),
  maxSamples: orNull(integer(null, 1)),
  valSize: shareOrCount(0),
  defaultSystem: orNull(key(null, "text", (v) => (typeof v === "string" ? v : undefined))),
  enableThinking: orNull(flag(true)),
  disableShuffling: flag(),

  outputDir: text(),
  overwriteOutputDir: flag(),
  resumeFromCheckpoint: orNull(
    key(null, "true, false or a path", (v) => (typeof v === "boolean" || typeof v === "string" ? v : undefined)),
  ),
  doEval: flag(),
  perDeviceTrainBatchSize: integer(8, 1, MAX_BATCH),
  perDeviceEvalBatchSize: integer(8, 1, MAX_BATCH),
  gradientAccumulationSteps: integer(1, 1),
  learningRate: number(5e-5, 0),
  numTrainEpochs: number(3, 0, Number.MAX_VALUE, true),
  maxSteps: key(-1, "an integer from 1 on, or -1", (v) =>
    typeof v === "number" && Number.isSafeInteger(v) && (v > 0 || v === -1) ? v : undefined,
  ),
  lrSchedulerType: choice("linear", SCHEDULE_TYPES),
  lrSchedulerKwargs: key({}, "names with values", (v) => (isObject(v) ? v : undefined)),
  warmupSteps: shareOrCount(0),
  weightDecay: number(0, 0),
  maxGradNorm: number(1, 0),
  optim: choice("adamw_torch", Object.keys(OPTIMIZERS)),
  adamBeta1: number(0.9, 0, 1),
  adamBeta2: number(0.999, 0, 1),
  adamEpsilon: number(1e-8, 0),
  labelSmoothingFactor: number(0, 0, 1),
  neftuneNoiseAlpha: orNull(number(null, 0)),
  seed: integer(42, 0),
  dataSeed: orNull(integer(null, 0)),
  bf16: flag(),
  gradientCheckpointing: flag(),
  activationOffloading: flag(),
  device: text("cpu"),
  memoryBudget: orNull(byteCount),
  loggingSteps: shareOrCount(500, Number.MIN_VALUE),
  saveSteps: shareOrCount(500, Number.MIN_VALUE),
  saveStrategy: choice("steps", ["steps", "epoch", "no"]),
  saveTotalLimit: orNull(integer(null, 1)),
  saveOnlyModel: flag(),
  evalStrategy: choice("no", ["steps", "epoch", "no"]),
  evalSteps: orNull(shareOrCount(null, Number.MIN_VALUE)),
};

/** The default of a key, in the file's form or in camelCase; undefined: there is no such key. */
export function defaultOf(key: string): Json | undefined {
  const name = key.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
  return Object.hasOwn(KEYS, name) ? KEYS[name as keyof TrainConfig].default : undefined;
}

/** Keys of LLaMA-Factory and transformers that change speed, memory, reports or another command, but not what is learned. */
export const WITHOUT_EFFECT: ReadonlySet<string> = new Set(
  `trust_remote_code use_fast_tokenizer low_cpu_mem_usage flash_attn use_unsloth use_unsloth_gc enable_liger_kernel use_liger_kernel use_reentrant_gc
  upcast_layernorm upcast_lmhead_output infer_backend infer_dtype offload_folder use_kv_cache use_v1_kernels print_param_status hf_hub_token ms_hub_token
  om_hub_token quantization_device_map pure_bf16 fp16 bf16_full_eval fp16_full_eval tf32 torch_compile torch_compile_backend torch_compile_mode use_cache
  torch_empty_cache_steps auto_find_batch_size gradient_checkpointing_kwargs activation_checkpointing activation_checkpointing_kwargs
  overwrite_cache preprocessing_batch_size preprocessing_num_workers data_shared_file_system media_dir buffer_size ignore_pad_token_for_loss eval_num_beams
  dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers dataloader_prefetch_factor dataloader_in_order remove_unused_columns label_names
  ddp_timeout ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_backend ddp_static_graph deepspeed fsdp fsdp_config local_rank
  accelerator_config parallelism_config average_tokens_across_devices ray_run_name ray_storage_path ray_storage_filesystem ray_num_workers
  resources_per_worker placement_strategy ray_init_kwargs master_addr master_port
  plot_loss report_to run_name project logging_dir logging_strategy logging_first_step logging_nan_inf_filter log_level log_level_replica log_on_each_node
  disable_tqdm include_num_input_tokens_seen include_tokens_per_second include_effective_tokens_per_second skip_memory_metrics debug use_cpu
  save_safetensors save_on_each_node prediction_loss_only eval_accumulation_steps eval_do_concat_batches eval_use_gather_object batch_eval_metrics
  include_for_metrics full_determinism use_swanlab swanlab_project swanlab_workspace swanlab_run_name swanlab_mode swanlab_api_key swanlab_logdir
  swanlab_lark_webhook_url swanlab_lark_secret
  image_max_pixels image_min_pixels image_do_pan_and_scan crop_to_patches video_max_pixels video_min_pixels video_fps video_maxlen use_audio_in_video
  audio_sampling_rate freeze_vision_tower freeze_multi_modal_projector freeze_language_model
  do_sample temperature top_p top_k num_beams max_length max_new_tokens repetition_penalty length_penalty skip_special_tokens generation_max_length
  generation_num_beams generation_config export_dir export_size export_device export_quantization_bit export_quantization_dataset
  export_quantization_nsamples export_quantization_maxlen export_legacy_format export_hub_model_id hub_model_id hub_token hub_strategy hub_private_repo
  hub_always_push hub_revision pref_beta pref_ftx pref_bco_weight pref_loss dpo_label_smoothing simpo_gamma kto_chosen_weight kto_rejected_weight ld_alpha
  freeze_trainable_layers freeze_trainable_modules freeze_extra_modules
  metric_for_best_model greater_is_better`
    .split(/\s+/)
    .filter((name) => name !== ""),
);

/** Keys that would change the result and are not computed: an error unless they hold one of these values, which ask for nothing. */
export const UNSUPPORTED: Readonly<Record<string, readonly Json[]>> = Object.fromEntries([
  ...`adapter_folder resize_vocab split_special_tokens add_tokens add_special_tokens new_special_tokens_config rope_scaling shift_attn mixture_of_depths interleave_probs
  moe_aux_loss_coef fp8 create_new_adapter module_dropout ref_model ref_model_adapters
  ref_model_quantization_bit reward_model reward_model_adapters reward_model_quantization_bit use_ref_model use_galore use_apollo use_badam use_adam_mini
  use_muon use_mca use_kt use_llama_pro use_dft_loss use_asft_loss use_eaft_loss use_hyper_parallel use_megatron_bridge compute_accuracy
  early_stopping_steps streaming tokenized_path tool_format eval_on_each_dataset preserve_thinking block_diag_attn do_predict predict_with_generate
  group_by_length dataloader_drop_last load_best_model_at_end push_to_hub ignore_data_skip eval_on_start eval_delay optim_args
  optim_target_modules enable_jit_checkpoint restore_callback_states_from_checkpoint`
    .split(/\s+/)
    .map((name): [string, Json[]] => [name, [null, false, 0]]),
  ["quantization_method", ["bnb", "BNB", "bitsandbytes"]],
  ["mix_strategy", ["concat"]],
  ["train_sampling_strategy", ["random"]],
  ["init_special_tokens", ["noise_init"]],
]);

/** Values of supported keys that LLaMA-Factory or transformers know and that are not computed here. */
export const UNSUPPORTED_VALUES: Readonly<Record<string, RegExp>> = {
  stage: /^(rm|ppo|dpo|kto)$/,
  finetuning_type: /^(freeze|oft)$/,
  quantization_bit: /^(2|3|8)$/,
  optim:
    /^(adamw_(torch_(xla|npu_fused|4bit|8bit)|apex_fused|anyprecision)|adagrad|rmsprop.*|ademamix.*|paged_ademamix.*|galore_.*|lomo|adalomo|grokadamw|schedule_free_.*|apollo_.*|stable_adamw)$/,
  lr_scheduler_type: /^(reduce_lr_on_plateau|greedy)$/,
  save_strategy: /^best$/,
};
