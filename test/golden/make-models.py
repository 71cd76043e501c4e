"""Makes golden cases of kind `model` (cases/models/README.md) that are not part of the shared set: python make-models.py OUT [CASE …].

`N=40 SEED=3 python make-models.py OUT random` makes N random ones instead, of all families in turn, with odd sizes and any of their options.

Needs torch and transformers 5. Every row is computed alone, so that a rope that changes with the length of a sequence goes by its own.
`expected.safetensors` holds besides `grad.NAME`: the gradient of the loss with respect to norms, biases and the first 8 rows of the other
tensors of layer 0, in float64.
"""
import contextlib
import json
import os
import random
import shutil
import sys

import safetensors.torch
import torch
import transformers
from in_float64 import float64
from transformers import AutoConfig, AutoModelForCausalLM

B, S, NEW = 3, 24, 20
SIZES = dict(vocab_size=96, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0)
LLAMA_ROPE = dict(rope_theta=10000.0)


def llama(description, rope, **more):
    return dict(description=description, model_type="llama", head_dim=16, rope_parameters={**LLAMA_ROPE, **rope}, **more)


LONGROPE = dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75,
                short_factor=[1.0, 1.1, 1.5], long_factor=[1.2, 3.0, 8.0])
CASES = {
    "gemma3": dict(description="Gemma 3 text: norms on q and k, three norms besides, two ropes (full layers linear, factor 4), pattern 3, window 5.",
                   model_type="gemma3_text", num_hidden_layers=3, head_dim=12, sliding_window=5, sliding_window_pattern=3, query_pre_attn_scalar=9,
                   rope_parameters={"full_attention": dict(rope_type="linear", factor=4.0, rope_theta=50000.0),
                                    "sliding_attention": dict(rope_type="default", rope_theta=700.0)}),
    "gemma3_capped": dict(description="Gemma 3 text, untied, biases, capped logits, window longer than the sequences.",
                          model_type="gemma3_text", head_dim=10, sliding_window=64, query_pre_attn_scalar=20, attention_bias=True,
                          final_logit_softcapping=12.0, tie_word_embeddings=False),
    "gemma2_untied": dict(description="Gemma 2 without caps, untied, biases, a head size that heads do not divide hidden into.", model_type="gemma2",
                          head_dim=14, sliding_window=3, query_pre_attn_scalar=11, attention_bias=True, attn_logit_softcapping=None,
                          final_logit_softcapping=None, tie_word_embeddings=False),
    "smollm3": dict(description="SmolLM3: layer 1 of 2 rotates nothing and has a window of 4; biases; tied.", model_type="smollm3",
                    no_rope_layers=[1, 0], use_sliding_window=True, sliding_window=4, attention_bias=True, mlp_bias=True),
    "smollm3_interval": dict(description="SmolLM3: layers without rope by their interval, untied, no window.", model_type="smollm3",
                             num_hidden_layers=3, no_rope_layer_interval=2, tie_word_embeddings=False),
    "olmo2": dict(description="OLMo 2: norms after attention and MLP, and over all of q and of k.", model_type="olmo2"),
    "olmo2_tied": dict(description="OLMo 2, tied, biases.", model_type="olmo2", attention_bias=True, tie_word_embeddings=True),
    "granite": dict(description="Granite: factors on embeddings, scores, residuals and logits; biases; tied.", model_type="granite", attention_bias=True,
                    mlp_bias=True, embedding_multiplier=3.5, residual_multiplier=0.6, attention_multiplier=0.2, logits_scaling=0.4,
                    tie_word_embeddings=True),
    "phi3_longrope_long": dict(description="Phi-3, three quarters of a head rotated, all sequences longer than the original context: long factors.",
                               model_type="phi3", original_max_position_embeddings=2, rope_parameters=LONGROPE),
    "phi3_longrope_crossing": dict(description="Phi-3 whose sequences are shorter and longer than the original context of 16, and grow beyond it; window 9.",
                                   model_type="phi3", original_max_position_embeddings=16, rope_parameters=LONGROPE, sliding_window=9),
    "llama_linear": llama("Llama with linear rope scaling.", dict(rope_type="linear", factor=3.0)),
    "llama_dynamic": llama("Llama with dynamic NTK scaling, rows shorter and longer than the context of 16.", dict(rope_type="dynamic", factor=2.0),
                           max_position_embeddings=16, tie_word_embeddings=True),
    "llama_yarn": llama("Llama with YaRN.", dict(rope_type="yarn", factor=8.0, original_max_position_embeddings=32)),
    "llama_yarn_mscale": llama("Llama with YaRN's mscale, untruncated ends.", dict(
        rope_type="yarn", factor=8.0, original_max_position_embeddings=32, mscale=0.8, mscale_all_dim=0.4, truncate=False, beta_fast=20.0, beta_slow=2.0)),
    "qwen2_window": dict(description="Qwen2 with a window in layer 1, biases, untied.", model_type="qwen2", use_sliding_window=True, sliding_window=5,
                         max_window_layers=1, tie_word_embeddings=False),
    "qwen3_window": dict(description="Qwen3 with biases, and a window in layer 0 by layer_types.", model_type="qwen3", head_dim=10, attention_bias=True,
                         use_sliding_window=True, sliding_window=4, layer_types=["sliding_attention", "full_attention"]),
    "mistral_yarn": dict(description="Mistral with YaRN and a window of 6, head size 20, tied.", model_type="mistral", head_dim=20, sliding_window=6,
                         tie_word_embeddings=True,
                         rope_parameters=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, rope_theta=5000.0, attention_factor=1.3)),
}


def ropes(rng, head_dim):
    """A rope of any form that Llama's families have."""
    theta = rng.choice([100.0, 10000.0, 500000.0])
    kind = rng.choice(["default", "linear", "dynamic", "llama3", "yarn"])
    factor = rng.choice([1.5, 2.0, 8.0])
    more = dict(
        default={}, linear=dict(factor=factor), dynamic=dict(factor=factor),
        llama3=dict(factor=factor, low_freq_factor=1.0, high_freq_factor=rng.choice([2.0, 4.0]), original_max_position_embeddings=rng.choice([12, 40])),
        yarn=dict(factor=factor, original_max_position_embeddings=rng.choice([16, 40])))[kind]
    if kind == "yarn":
        if rng.random() < 0.3:
            more.update(mscale=rng.choice([0.7, 1.0]), mscale_all_dim=rng.choice([0.4, 1.0]))
        if rng.random() < 0.3:
            more.update(beta_fast=rng.choice([16.0, 40.0]), beta_slow=rng.choice([1.0, 3.0]))
        if rng.random() < 0.3:
            more.update(truncate=False)
        if rng.random() < 0.3:
            more.update(attention_factor=rng.choice([0.8, 1.3]))
    return dict(rope_type=kind, rope_theta=theta, **more)


def random_case(rng, family):
    """Any of a family's options, with sizes that no tile divides."""
    coin = lambda p=0.5: rng.random() < p
    kv, group = rng.choice([1, 2, 3]), rng.choice([1, 2, 3])
    head_dim = rng.choice([4, 6, 10, 14, 18, 22])
    layers = rng.choice([1, 2, 3])
    case = dict(model_type=family, vocab_size=rng.choice([61, 83, 97, 131]), hidden_size=kv * group * rng.choice([7, 9, 13]), num_hidden_layers=layers,
                intermediate_size=rng.choice([17, 29, 47, 71]), num_attention_heads=kv * group, num_key_value_heads=kv, head_dim=head_dim,
                rms_norm_eps=rng.choice([1e-6, 1e-5, 1e-3]), tie_word_embeddings=coin())
    window = rng.choice([2, 3, 5, 9, 24, 64])  # of 1 the library's cache keeps all
    types = [rng.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]
    if family in ("llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "granite"):
        case["rope_parameters"] = ropes(rng, head_dim)
        if case["rope_parameters"]["rope_type"] == "dynamic":
            case["max_position_embeddings"] = rng.choice([22, 64])
    if family in ("llama", "granite", "smollm3"):
        case.update(attention_bias=coin(), mlp_bias=coin())
    if family in ("qwen3", "olmo2"):
        case.update(attention_bias=coin())
    if family == "mistral":
        case.update(sliding_window=rng.choice([window, None]))
    if family in ("qwen2", "olmo2"):  # their heads divide the hidden size
        case.update(hidden_size=head_dim * kv * group)
        case.pop("head_dim")
    if family in ("qwen2", "qwen3") and coin():
        case.update(use_sliding_window=True, sliding_window=window)
        case.update(dict(layer_types=types) if coin() else dict(max_window_layers=rng.randint(0, layers)))
    if family == "smollm3":
        case.update(dict(no_rope_layers=[rng.choice([0, 1]) for _ in range(layers)]) if coin() else dict(no_rope_layer_interval=rng.choice([1, 2, 3])))
        if coin():
            case.update(use_sliding_window=True, sliding_window=window)
    if family == "granite":
        case.update(embedding_multiplier=rng.choice([1.0, 3.5, 12.0]), residual_multiplier=rng.choice([1.0, 0.22]),
                    attention_multiplier=rng.choice([0.1, 0.5]), logits_scaling=rng.choice([1.0, 0.3, 8.0]))
    if family in ("gemma2", "gemma3_text"):
        case.update(sliding_window=window, query_pre_attn_scalar=rng.choice([5, 16, 31]), attention_bias=coin(),
                    final_logit_softcapping=rng.choice([None, 2.0, 9.0]))
    if family == "gemma2":
        case.update(attn_logit_softcapping=rng.choice([None, 1.5, 6.0]), rope_parameters=dict(rope_type="default", rope_theta=rng.choice([100.0, 10000.0])))
    if family == "gemma3_text":
        full = dict(rope_type="linear", factor=rng.choice([2.0, 8.0])) if coin() else dict(rope_type="default")
        case.update(rope_parameters={"full_attention": dict(**full, rope_theta=rng.choice([5000.0, 1e6])),
                                     "sliding_attention": dict(rope_type="default", rope_theta=rng.choice([100.0, 10000.0]))},
                    sliding_window_pattern=rng.choice([1, 2, 3]))
    if family in ("gemma2", "gemma3_text") and coin(0.4):
        case.update(layer_types=types)
        case.pop("sliding_window_pattern", None)
    if family == "phi3":
        case.pop("head_dim")
        head_dim = rng.choice([8, 16, 24])  # whose parts are even too
        partial = rng.choice([1.0, 0.75, 0.5])
        case.update(hidden_size=head_dim * kv * group, sliding_window=rng.choice([window, None]))
        if coin(0.7):
            half = int(head_dim * partial) // 2
            factors = lambda top: [round(rng.uniform(1, top), 2) for _ in range(half)]
            case.update(original_max_position_embeddings=rng.choice([2, 11, 16, 64]), max_position_embeddings=rng.choice([64, 128]),
                        rope_parameters=dict(rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=partial,
                                             short_factor=factors(1.5), long_factor=factors(9)))
        else:
            case.update(rope_parameters=dict(rope_type="default", rope_theta=1000.0, partial_rotary_factor=partial))
    case.update(store=rng.choice(["float32", "float32", "bfloat16", "float16"]), shard_kib=rng.choice([None, None, 9]))
    shown = json.dumps({k: v for k, v in case.items() if k != "model_type"})
    return dict(description=f"{family} at random: {shown}", **case)


FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi3", "smollm3", "olmo2", "granite"]


def v4(config, case):
    """The same meaning in the keys of transformers 4."""
    out = dict(config)
    rope = out.pop("rope_parameters", None) or {}
    out["torch_dtype"] = out.pop("dtype")
    out["transformers_version"] = "4.57.0"
    if "full_attention" in rope:
        full, local = dict(rope["full_attention"]), rope["sliding_attention"]
        out["rope_theta"], out["rope_local_base_freq"] = full.pop("rope_theta"), local["rope_theta"]
        out["rope_scaling"] = None if full["rope_type"] == "default" else full
        out["sliding_window_pattern"] = case.get("sliding_window_pattern", 6)
    else:
        rope = dict(rope)
        out["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            out["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        if "original_max_position_embeddings" in config:
            rope.pop("original_max_position_embeddings", None)
        out["rope_scaling"] = None if rope["rope_type"] == "default" else {"type": rope.pop("rope_type"), **rope}
    if "layer_types" not in case:
        out.pop("layer_types", None)
    return out


def build(case, seed):
    torch.manual_seed(seed)
    settings = {**SIZES, **{k: v for k, v in case.items() if k not in ("description", "store", "shard_kib")}}
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).eval()
    offset = "gemma" in case["model_type"]
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_((0 if offset else 1) + 0.3 * torch.randn_like(p))
            elif name.endswith("bias"):
                p.copy_(0.3 * torch.randn_like(p))
            else:
                p.copy_(torch.randn_like(p) * (0.6 if "embed" in name or "lm_head" in name else p.shape[-1] ** -0.5))
            p.copy_(p.to(getattr(torch, case.get("store", "float32"))))
    model.generation_config.eos_token_id = None
    return model


def forget(model):
    """A dynamic rope remembers the longest sequence that it has seen, until a short one comes."""
    if model.config.rope_parameters.get("rope_type") == "dynamic":
        model(torch.tensor([[3]]))


def forward(model, ids):
    forget(model)
    with float64() if model.dtype == torch.float64 else contextlib.nullcontext():
        out = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
    return out.logits[0], out.hidden_states


def generate(model, ids):
    forget(model)
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=NEW, do_sample=False)
    return out[0, len(ids):].tolist()


def make(name, case, folder, seed):
    model = build(case, seed)
    wide = build(case, seed).double()
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(f"{folder}/model")
    shard = case.get("shard_kib")
    stored = build(case, seed).to(getattr(torch, case.get("store", "float32")))
    stored.save_pretrained(f"{folder}/model", **(dict(max_shard_size=f"{shard}KB") if shard else {}))
    with open(f"{folder}/model/config.json") as f:
        config = json.load(f)
    if case["model_type"] == "gemma3_text":
        config.pop("_sliding_window_pattern", None)
    for path, content in (("config.json", config), ("config.v4.json", v4(config, case)),
                          ("generation_config.json", dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, transformers_version=transformers.__version__))):
        with open(f"{folder}/model/{path}", "w") as f:
            f.write(json.dumps(content, indent=1, sort_keys=True))

    vocab, hidden_size = config["vocab_size"], config["hidden_size"]
    rope = (config.get("rope_parameters") or {}).get("rope_type")
    g = torch.Generator().manual_seed(seed + 1)
    lengths = [S, 17, 10]
    ids, mask, labels = torch.zeros(B, S, dtype=torch.int32), torch.zeros(B, S, dtype=torch.int32), torch.full((B, S), -100, dtype=torch.int32)
    for b, n in enumerate(lengths):
        ids[b, :n] = torch.randint(3, vocab, (n,), generator=g)
        mask[b, :n] = 1
        labels[b, n // 3:n] = ids[b, n // 3:n]
    prompts = [torch.randint(3, vocab, (n,), generator=g).tolist() for n in (12, 8, 4)]
    left, left_mask = torch.zeros(B, 12, dtype=torch.int32), torch.zeros(B, 12, dtype=torch.int32)
    for b, prompt in enumerate(prompts):
        left[b, 12 - len(prompt):] = torch.tensor(prompt)
        left_mask[b, 12 - len(prompt):] = 1

    logits, logprobs, last = torch.zeros(B, S, vocab), torch.zeros(B, S), torch.zeros(B, vocab)
    expected, total, loss, deviation = {}, 0, 0.0, 0.0
    for b, n in enumerate(lengths):
        row = ids[b, :n].tolist()
        out, hidden = forward(wide, row)
        p = out.log_softmax(-1)
        picked = p[torch.arange(n - 1), torch.tensor(row[1:])]
        logits[b, :n], logprobs[b, 1:n] = out.detach().float(), picked.detach().float()
        targets = labels[b, 1:n] != -100
        total, loss = total + int(targets.sum()), loss - picked[targets].sum()
        with torch.no_grad():
            deviation = max(deviation, float((forward(model, row)[0].double() - out).abs().max()))
        if b == 0:
            *before, final = hidden
            last_layer = []
            hook = wide.model.norm.register_forward_pre_hook(lambda _, args: last_layer.append(args[0]))
            forward(wide, row)
            hook.remove()
            for i, h in enumerate(before):
                expected[f"hidden.{i}"] = h[0].detach().float()
            expected[f"hidden.{len(before)}"] = last_layer[-1][0].detach().float()
            expected["hidden.final"] = final[0].detach().float()
    loss = loss / total
    loss.backward()
    for key, p in wide.named_parameters():
        if p.dim() == 1:
            expected[f"grad.{key}"] = p.grad.float()
        elif ".layers.0." in key:
            expected[f"grad.{key}"] = p.grad[:8].float()
    new = [generate(model, prompt) for prompt in prompts]
    for b, prompt in enumerate(prompts):
        last[b] = forward(wide, prompt)[0][-1].detach().float()
    margins = []
    for prompt, tokens in zip(prompts, new):
        own = prompt + tokens
        if rope != "dynamic":  # the library keeps keys rotated for the length they were made at
            out = forward(wide, own)[0][len(prompt) - 1:-1]
            steps = [forward(wide, own[:len(prompt) + i])[0][-1] for i in range(NEW)] if rope == "longrope" else out
            best = [step.topk(2).values for step in steps]
            if [int(step.argmax()) for step in steps] != tokens:
                return "float32 chooses another token"
            margins.append(min(float((m[0] - m[1]).detach()) for m in best))
    eos = new[0][NEW // 2]
    stopped = [(row[:row.index(eos) + 1] if eos in row else row) for row in new]
    width = max(map(len, stopped))
    padded = [row + [0] * (width - len(row)) for row in stopped]
    expected.update(logits=logits, token_logprobs=logprobs, left_last_logits=last)
    safetensors.torch.save_file(expected, f"{folder}/expected.safetensors")
    safetensors.torch.save_file(dict(input_ids=ids, attention_mask=mask, labels=labels, left_input_ids=left, left_attention_mask=left_mask),
                                f"{folder}/inputs.safetensors")
    spec = dict(kind="model", description=case["description"], madeWith=dict(torch=torch.__version__.split("+")[0], transformers=transformers.__version__),
                seed=seed, architecture=type(model).__name__, modelType=case["model_type"], model="model", modelFiles=sorted(os.listdir(f"{folder}/model")),
                dims=dict(batch=B, seq=S, vocab=vocab, hidden=hidden_size, layers=config["num_hidden_layers"]),
                logitsAbsMax=float(logits.abs().max()), float32Deviation=deviation, lossFloat64=float(loss), targetTokens=total,
                greedy=dict(maxNewTokens=NEW, minMargin=min(margins, default=None),
                            prompts=[dict(inputIds=p, newTokens=t) for p, t in zip(prompts, new)],
                            leftPadded=dict(newTokens=new), eosStop=dict(eosTokenId=eos, padTokenId=0, newTokens=padded)),
                tolerance=dict(logitsAbs=2e-4, lossRel=1e-5, gradRel=1e-4))
    with open(f"{folder}/case.json", "w") as f:
        f.write(json.dumps(spec, indent=1))
    print(name, "margin", spec["greedy"]["minMargin"], "float32", f"{deviation:.1e}", "max", f"{spec['logitsAbsMax']:.2f}")


def make_random(out, count, seed):
    rng = random.Random(seed)
    for i in range(count):
        family = FAMILIES[i % len(FAMILIES)]
        name = f"r{seed}_{i:03d}_{family}"
        case = random_case(rng, family)
        trouble = next((t for t in (make(name, case, f"{out}/{name}", seed * 10000 + 100 * i + k) for k in range(5)) if not t), "five seeds gave no clear tokens")
        if trouble:
            print(name, trouble)
            shutil.rmtree(f"{out}/{name}")


if __name__ == "__main__":
    if sys.argv[2:] == ["random"]:
        make_random(sys.argv[1], int(os.environ.get("N", "40")), int(os.environ.get("SEED", "1")))
        sys.exit()
    for i, (name, case) in enumerate(CASES.items()):
        if len(sys.argv) < 3 or name in sys.argv[2:]:
            trouble = make(name, case, os.path.join(sys.argv[1], name), 7000 + 17 * i)
            assert not trouble, f"{name}: {trouble}"
