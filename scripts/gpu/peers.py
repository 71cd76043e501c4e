"""The peers' times at the shapes of `lowrank bench ops` and of test/gpu/llama.gpu.ts, one JSON line each: PyTorch's products, attention and AdamW,
bitsandbytes' 4-bit linears, and a whole QLoRA step with transformers + PEFT, each where Python has it.

python3 peers.py [--device cuda|cpu]. On the CPU shapes are small: the same program, no figures of interest. Ends with 75 where there is no PyTorch for
the device.
"""
import argparse
import importlib.metadata
import json
import statistics
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--device", default="cuda")
device = parser.parse_args().device
full = device == "cuda"


def out(**row):
    print(json.dumps({"kind": "peer", **row}), flush=True)


def leave(reason):
    out(status="skipped", reason=reason)
    sys.exit(75)


try:
    import torch
except ImportError:
    leave("this Python has no PyTorch")
if full and not torch.cuda.is_available():
    leave("this PyTorch finds no CUDA device")


def version(name):
    return f"{name} {importlib.metadata.version(name)}"


def attempt(what, body):
    """A peer that is absent or cannot do something is said to be, and the others go on."""
    try:
        body()
    except ImportError as error:
        out(op=what, status="skipped", reason=f"this Python lacks {error.name}")
    except Exception as error:  # whatever a peer throws
        out(op=what, status="skipped", reason=f"{type(error).__name__}: {str(error)[:200]}")


def synchronize():
    if full:
        torch.cuda.synchronize()


def timed(body, repeats=30 if full else 3):
    for _ in range(3):
        body()
    times = []
    for _ in range(repeats):
        synchronize()
        begin = time.perf_counter()
        body()
        synchronize()
        times.append(1e3 * (time.perf_counter() - begin))
    times.sort()
    return {"median_ms": statistics.median(times), "p10_ms": times[len(times) // 10], "p90_ms": times[-1 - len(times) // 10]}


SHAPES = [(m, n, k) for m in (1, 512, 2048) for n, k in ((4096, 4096), (14336, 4096))] if full else [(16, 128, 64)]
bf16 = torch.bfloat16


def random(*shape, **options):
    return torch.randn(*shape, device=device, dtype=bf16, **options)


def products():
    for m, n, k in SHAPES:
        x, w = random(m, k), random(n, k)
        t = timed(lambda: torch.nn.functional.linear(x, w))
        out(peer=version("torch"), op="linear", dtype="bfloat16", m=m, n=n, k=k, **t, gflops=2e-6 * m * n * k / t["median_ms"])


def four_bit():
    import bitsandbytes as bnb
    import bitsandbytes.functional as F

    for m, n, k in SHAPES:
        x = random(m, k)
        codes, state = F.quantize_4bit(random(n, k), quant_type="nf4", compress_statistics=True)
        t = timed(lambda: bnb.matmul_4bit(x, codes.t(), quant_state=state))
        out(peer=version("bitsandbytes"), op="linear", dtype="nf4", m=m, n=n, k=k, **t, gflops=2e-6 * m * n * k / t["median_ms"])
        if m == SHAPES[0][0]:
            t = timed(lambda: F.dequantize_4bit(codes, state))
            out(peer=version("bitsandbytes"), op="dequantize_4bit", dtype="bfloat16", n=n, k=k, **t)


def attention():
    heads, d = (32, 128) if full else (4, 16)
    for s in (2048, 8192) if full else (32,):
        q, k, v = (random(1, heads, s, d, requires_grad=True) for _ in range(3))
        call = lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        forward = timed(call)
        y = call()
        dy = torch.randn_like(y)
        backward = timed(lambda: y.backward(dy, retain_graph=True))
        flops = 2 * s * s * heads * d  # causal: half of two products of 2 s² d a head
        out(peer=version("torch"), op="attention", dtype="bfloat16", seq=s, heads=heads, **forward, gflops=1e-6 * flops / forward["median_ms"])
        out(peer=version("torch"), op="attention_grad", dtype="bfloat16", seq=s, heads=heads, **backward, gflops=2.5e-6 * flops / backward["median_ms"])


def adamw():
    n = 41_943_040 if full else 10_000
    p = torch.randn(n, device=device, requires_grad=True)
    p.grad = torch.randn_like(p)
    out(peer=version("torch"), op="adamw", dtype="float32", n=n, **timed(torch.optim.AdamW([p], fused=True).step))


def step():
    import bitsandbytes as bnb
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(vocab_size=128_256, hidden_size=4096, intermediate_size=14_336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
    if not full:
        sizes = dict(vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=False, rope_theta=500_000.0))
    # Layer by layer: 16 bits of all of it need not fit.
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.Linear) and name != "lm_head":
                linear = bnb.nn.Linear4bit(child.in_features, child.out_features, bias=False, compute_dtype=bf16, quant_type="nf4", device="cpu")
                weight = 0.02 * torch.randn(child.out_features, child.in_features, dtype=bf16, device=device)
                linear.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4", compress_statistics=True)
                setattr(module, name, linear.to(device))
            elif not list(child.children()) and any(True for _ in child.parameters()):
                child.to_empty(device=device)
                child.to(bf16)
                for parameter in child.parameters():
                    torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.02)
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    model.config.use_cache = False
    for s, checkpointing in ((2048, True), (512, False)) if full else ((16, True),):
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            model.gradient_checkpointing_disable()
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")).train()
        optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=1e-4)
        ids = torch.randint(0, sizes["vocab_size"], (1, s), device=device)

        def train():
            adapted(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        if full:
            torch.cuda.reset_peak_memory_stats()
        t = timed(train, 3)
        held = {"held_bytes": torch.cuda.max_memory_reserved()} if full else {}
        out(peer=f"{version('peft')}, {version('transformers')}, {version('bitsandbytes')}", op="step", dtype="nf4", seq=s, gradient_checkpointing=checkpointing,
            **t, tokens_per_s=1e3 * s / t["median_ms"], **held)
        model = adapted.unload()


attempt("linear", products)
attempt("linear nf4", four_bit)
attempt("attention", attention)
attempt("adamw", adamw)
attempt("step", step)
