"""Writes a Llama checkpoint in 16 bits as a GGUF for llama.cpp, to be measured beside us: `python bench/write_gguf.py MODEL OUT.gguf [Q4_0|Q4_1] [Q8_0|BF16]`.

Linears in 4 bits, the embedding (which is the head of a tied model) in Q8_0, as llama-quantize leaves it where rows are no multiple of 256,
or in BF16, the precision that a bitsandbytes checkpoint leaves it in; norms in float32. Needs gguf and numpy (`lowrank merge` writes a 16-bit folder of a 4-bit model).
"""
import glob
import json
import os
import struct
import sys

import gguf
import numpy as np

folder, out, kind, head, *_ = [*sys.argv[1:], *["Q4_0", "Q8_0"][len(sys.argv) - 3 :]]
config = json.load(open(f"{folder}/config.json"))
if config["model_type"] != "llama":
    sys.exit(f"{folder} is a {config['model_type']}, not a llama")
heads, kv_heads, layers = config["num_attention_heads"], config["num_key_value_heads"], config["num_hidden_layers"]

names = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
parts = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
for layer in range(layers):
    for ours, theirs in parts.items():
        names[f"model.layers.{layer}.{ours}.weight"] = f"blk.{layer}.{theirs}.weight"


def tensors():
    """Names and float32 values of bfloat16 safetensors files."""
    for path in sorted(glob.glob(f"{folder}/*.safetensors")):
        with open(path, "rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(size))
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                if entry["dtype"] != "BF16":
                    sys.exit(f"{name} is {entry['dtype']}, not BF16")
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                bits = np.frombuffer(file.read(end - begin), np.uint16).astype(np.uint32) << 16
                yield name, bits.view(np.float32).reshape(entry["shape"])


def interleaved(weight, count):
    """Rows of a rotated projection in llama.cpp's order: the halves of a head's dimensions in pairs."""
    rows, columns = weight.shape
    return weight.reshape(count, 2, rows // count // 2, columns).swapaxes(1, 2).reshape(rows, columns)


writer = gguf.GGUFWriter(out, "llama")
writer.add_context_length(config["max_position_embeddings"])
writer.add_embedding_length(config["hidden_size"])
writer.add_block_count(layers)
writer.add_feed_forward_length(config["intermediate_size"])
writer.add_head_count(heads)
writer.add_head_count_kv(kv_heads)
writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
writer.add_rope_freq_base(float(config.get("rope_parameters", config)["rope_theta"]))
writer.add_rope_dimension_count(config.get("head_dim", config["hidden_size"] // heads))
writer.add_vocab_size(config["vocab_size"])
if os.path.exists(f"{folder}/tokenizer.json"):
    tokenizer = json.load(open(f"{folder}/tokenizer.json"))
    ids = {id: text for text, id in tokenizer["model"]["vocab"].items()}
    ids.update({token["id"]: token["content"] for token in tokenizer["added_tokens"]})
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([ids.get(i, f"[{i}]") for i in range(config["vocab_size"])])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
else:  # a checkpoint of random weights
    writer.add_tokenizer_model("no_vocab")
writer.add_file_type(getattr(gguf.LlamaFileType, f"MOSTLY_{kind}"))
writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
for name, weight in tensors():
    if name.endswith("q_proj.weight"):
        weight = interleaved(weight, heads)
    if name.endswith("k_proj.weight"):
        weight = interleaved(weight, kv_heads)
    at = getattr(gguf.GGMLQuantizationType, "F32" if weight.ndim == 1 else head if name in names and "layers" not in name else kind)
    writer.add_tensor(names[name], weight if weight.ndim == 1 else gguf.quantize(weight, at), raw_dtype=at)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
