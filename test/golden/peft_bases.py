"""What the generators of cases share: small bases of every family, with odd sizes and random weights, adapters, case folders."""

import json
import os
import shutil

import safetensors.torch
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from peft import LoraConfig, get_peft_model

V = 97


def base_settings(name):
    S = dict(
        vocab_size=V,
        hidden_size=36,
        intermediate_size=52,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    B = {
        "llama": dict(model_type="llama", head_dim=10, attention_bias=True, mlp_bias=True),
        "llama_plain": dict(model_type="llama", num_attention_heads=3, num_key_value_heads=1, head_dim=18),
        "llama_tied": dict(model_type="llama", head_dim=6, tie_word_embeddings=True),
        "qwen2": dict(model_type="qwen2", tie_word_embeddings=True),
        "qwen3": dict(model_type="qwen3", head_dim=14, tie_word_embeddings=True, attention_bias=True),
        "mistral": dict(model_type="mistral", head_dim=22, sliding_window=3),
        "gemma2": dict(
            model_type="gemma2",
            head_dim=14,
            sliding_window=3,
            query_pre_attn_scalar=11,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=2.5,
        ),
        "gemma3": dict(
            model_type="gemma3_text",
            num_hidden_layers=3,
            head_dim=12,
            sliding_window=4,
            sliding_window_pattern=3,
            query_pre_attn_scalar=9,
            rope_parameters={
                "full_attention": dict(rope_type="linear", factor=4.0, rope_theta=50000.0),
                "sliding_attention": dict(rope_type="default", rope_theta=700.0),
            },
        ),
        "phi3": dict(model_type="phi3", partial_rotary_factor=1.0),
        "smollm3": dict(model_type="smollm3", no_rope_layers=[1, 0], attention_bias=True, tie_word_embeddings=True),
        "olmo2": dict(model_type="olmo2"),
        "granite": dict(
            model_type="granite",
            attention_bias=True,
            mlp_bias=True,
            embedding_multiplier=3.5,
            residual_multiplier=0.6,
            attention_multiplier=0.2,
            logits_scaling=0.4,
            tie_word_embeddings=True,
        ),
    }
    return {**S, **B[name]}


NAMES = [
    "llama",
    "llama_plain",
    "llama_tied",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "smollm3",
    "olmo2",
    "granite",
]


def fill(model, seed, offset):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if "norm" in name:
                p.copy_((0 if offset else 1) + 0.2 * r)
            elif name.endswith("bias"):
                p.copy_(0.2 * r)
            else:
                p.copy_(r * (0.5 if "embed" in name or "lm_head" in name else p.shape[-1] ** -0.5))


def make_base(out, name, seed=5, **over):
    st = base_settings(name)
    st.update(over)
    mt = st.pop("model_type")
    config = AutoConfig.for_model(mt, **st)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval().float()
    fill(model, seed, "gemma" in mt)
    folder = f"{out}/bases/{name}"
    os.makedirs(folder, exist_ok=True)
    model.save_pretrained(folder)
    try:
        os.remove(f"{folder}/generation_config.json")
    except FileNotFoundError:
        pass
    c = json.load(open(f"{folder}/config.json"))
    c.pop("_sliding_window_pattern", None)
    json.dump(c, open(f"{folder}/config.json", "w"), indent=1)
    g = torch.Generator().manual_seed(seed + 1)
    ids, mask, labels = inputs(g)
    with torch.no_grad():
        lg = load(folder)(ids, attention_mask=mask).logits
    safetensors.torch.save_file(
        dict(input_ids=ids.int(), attention_mask=mask.int(), labels=labels.int(), logits_base=lg.contiguous()),
        f"{folder}/reference.safetensors",
    )
    return folder


def inputs(g, rows=2, width=7):
    ids = torch.randint(3, V, (rows, width), generator=g)
    mask = torch.ones_like(ids)
    labels = ids.clone()
    labels[:, :2] = -100
    for r in range(1, rows):
        n = width - r * 2
        ids[r, n:] = 0
        mask[r, n:] = 0
        labels[r, n:] = -100
    return ids, mask, labels


def load(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def adapter(path, base, seed, **config):
    """Saves an adapter with random weights for the base of that folder."""
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config)).eval()
    perturb(model, torch.Generator().manual_seed(seed), config.get("init_lora_weights", True))
    shutil.rmtree(path, ignore_errors=True)
    model.save_pretrained(path)


def write_case(folder, spec, inputs=None, expected=None):
    os.makedirs(folder, exist_ok=True)
    for name, tensors in (("inputs", inputs), ("expected", expected)):
        if tensors is not None:
            plain = {k: (v.type(torch.float32) if v.dtype == torch.float64 else v).detach().contiguous().clone() for k, v in tensors.items()}
            safetensors.torch.save_file(plain, f"{folder}/{name}.safetensors")
    with open(f"{folder}/case.json", "w") as f:
        f.write(json.dumps(spec, indent=1))


def ref(folder):
    t = safetensors.torch.load_file(f"{folder}/reference.safetensors")
    return t["input_ids"].long(), t["attention_mask"].long(), t["labels"].long(), t["logits_base"]


def perturb(model, g, init=True):
    """Moves everything trainable away from its start, that of PiSSA and OLoRA only a little."""
    with torch.no_grad():
        for n, p in model.named_parameters():
            if not p.requires_grad:
                continue
            r = torch.randn(p.shape, generator=g)
            if "magnitude" in n:
                p.mul_(1 + 0.15 * r)
            elif "lora_" in n:
                if str(init).lower().startswith(("pissa", "olora")):
                    p.add_(0.05 * r)
                else:
                    p.copy_(0.25 * r)
            elif "trainable_tokens" in n:
                p.copy_(0.5 * r)
            else:
                p.add_(0.15 * r)
