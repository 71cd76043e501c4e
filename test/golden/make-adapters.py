"""Makes golden cases of kind `adapter` (and `error`, where PEFT refuses) beyond the shared set: python make-adapters.py OUT [NAME …].

Needs torch, transformers 5 and peft 0.21. Expected values are computed in float64. Chosen configurations first, then N (60) random ones by SEED (606). Run them with
`npm run golden -- OUT`; what PEFT itself cannot load or run is printed and left out.
"""

import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import warnings

import peft_bases as bases
import safetensors.torch
import torch
from in_float64 import float64

from peft import LoraConfig, PeftModel, get_peft_model

warnings.simplefilter("ignore")
import transformers

transformers.utils.logging.disable_progress_bar()
OUT = sys.argv[1] + "/peft"
ONLY = sys.argv[2:]


def keyof(n, saved):
    k = n.replace("base_model.model.base_model.model.", "base_model.model.")
    k = k.replace(".modules_to_save.default.", ".").replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
    k = re.sub(r"\.default$", "", k.replace(".default.", "."))
    return k


def case(name, base, config, seed, mutate=None):
    if ONLY and not any(o in name for o in ONLY):
        return
    folder = f"{OUT}/bases/{base}"
    d = f"{OUT}/{name}"
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    torch.manual_seed(seed)
    g = torch.Generator().manual_seed(seed)
    try:
        cfg = LoraConfig(task_type="CAUSAL_LM", **config)
        m = get_peft_model(bases.load(folder), cfg).eval()
        bases.perturb(m, g, config.get("init_lora_weights", True))
        with contextlib.redirect_stdout(io.StringIO()):
            m.save_pretrained(f"{d}/adapter")
    except Exception as e:
        shutil.rmtree(d)
        os.makedirs(d)
        json.dump({"peft_type": "LORA", "task_type": "CAUSAL_LM", **config}, open(f"{d}/config.json", "w"))
        json.dump(
            dict(
                kind="error",
                stage="create",
                base=f"bases/{base}",
                config="config.json",
                should="error",
                description=json.dumps({**config, "base": base}),
            ),
            open(f"{d}/case.json", "w"),
        )
        print("PEFT REFUSES", name, json.dumps(config, default=str), type(e).__name__, str(e)[:200].replace("\n", " "))
        return
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter("always")
        try:
            # In float32, since PiSSA and OLoRA refuse to start in float64.
            m = PeftModel.from_pretrained(bases.load(folder), f"{d}/adapter", is_trainable=True).eval()
            narrow = forward(m, folder)
        except Exception as e:
            shutil.rmtree(d)
            print("PEFT CANNOT RUN ITS OWN", name, json.dumps(config), str(e)[:300].replace("\n", " "))
            return
    with float64():
        expect(name, base, config, seed, m.double(), narrow, w)


def forward(m, folder):
    """Logits, loss and gradients by the parameters' names."""
    ids, mask, labels, _ = bases.ref(folder)
    m.zero_grad()
    out = m(input_ids=ids, attention_mask=mask, labels=labels)
    out.loss.backward()
    grads = {n: (p.grad if p.grad is not None else torch.zeros_like(p)).clone() for n, p in m.named_parameters() if p.requires_grad}
    return out.logits.detach(), out.loss.detach(), grads


def distance(a, b):
    """The largest, relative where b is above 1."""
    return float(((a - b).abs() / b.abs().clamp(min=1)).max())


def expect(name, base, config, seed, m, narrow, w):
    folder, d = f"{OUT}/bases/{base}", f"{OUT}/{name}"
    ids, mask, labels, _ = bases.ref(folder)
    saved = set(safetensors.torch.load_file(f"{d}/adapter/adapter_model.safetensors"))
    logits, loss, grads = forward(m, folder)
    exp = dict(logits=logits)
    # What the library's own float32 is off shows how well a case can be computed at all.
    off = dict(logits=distance(narrow[0], logits), loss=distance(narrow[1], loss), grad=max(distance(narrow[2][n], g) for n, g in grads.items()))
    tolerance = {k: max(v, 4 * off[k]) for k, v in dict(logits=3e-4, loss=3e-5, grad=3e-4).items()}
    tied = bool(m.base_model.model.config.tie_word_embeddings)
    ends = (
        any(
            x in json.dumps([config.get(k) for k in ("target_modules", "modules_to_save", "trainable_token_indices")])
            for x in ("embed_tokens", "lm_head")
        )
        or "trainable_token_indices" in config
    )
    missing = []
    for n, grad in grads.items():
        k = keyof(n, saved)
        if k not in saved:
            missing.append(k)
        exp["grad." + k] = grad
    T = "grad.base_model.model."
    if (
        tied
        and config.get("ensure_weight_tying")
        and T + "lm_head.lora_A.weight" in exp
        and T + "model.embed_tokens.lora_embedding_B" in exp
    ):
        exp[T + "model.embed_tokens.lora_embedding_B"] += exp.pop(T + "lm_head.lora_A.weight").T
        exp[T + "model.embed_tokens.lora_embedding_A"] += exp.pop(T + "lm_head.lora_B.weight").T
    buf = io.StringIO()
    with contextlib.redirect_stdout(buf):
        m.print_trainable_parameters()
    tr, al = m.get_nb_trainable_parameters()
    from peft.tuners.lora import LoraLayer

    targeted = [n.replace("base_model.model.", "", 1) for n, x in m.named_modules() if isinstance(x, LoraLayer)]
    spec = dict(
        kind="adapter",
        description=json.dumps({**config, "base": base}, default=str),
        seed=seed,
        base=f"bases/{base}",
        adapter="adapter",
        logitsBase=f"bases/{base}/reference.safetensors",
        tolerance=dict(**tolerance, merged=3e-5, note="absolute; relative 1e-3 is fine for values above 1"),
        float32Deviation=off,
        loss=float(loss),
        trainableParameters=tr,
        allParameters=al,
        printTrainableParameters=buf.getvalue().strip(),
        targetedModules=targeted,
        loadWarnings=[
            str(x.message)[:150] for x in w if "prefix" not in str(x.message) and "gradient_checkp" not in str(x.message)
        ],
    )
    base_sd = {k: v.double() for k, v in bases.load(folder).state_dict().items()}
    try:
        merged = m.merge_and_unload(safe_merge=True).eval()
        with torch.no_grad():
            lm = merged(ids, attention_mask=mask).logits
        diff = ((lm - logits) * mask[..., None]).abs().max().item()
        spec["mergedLogitsMaxDifference"] = diff
        bad = tied and ends
        if not bad and diff > 5e-5 * max(1, logits.abs().max().item()):
            exp["logits_merged"] = lm.detach().contiguous()
        sd = merged.state_dict()
        names = []
        for k, v in sd.items():
            if bad and ("embed_tokens" in k or "lm_head" in k):
                continue
            if k in base_sd and not torch.equal(v, base_sd[k]) and "norm" not in k or (k not in base_sd):
                exp["merged." + k] = v.detach().contiguous().clone()
                names.append(k)
        spec["mergedTensors"] = names
        spec["mergedStillTied"] = (
            (
                merged.lm_head.weight.data_ptr() == merged.get_input_embeddings().weight.data_ptr()
                or torch.equal(merged.lm_head.weight, merged.get_input_embeddings().weight)
            )
            if tied and not ends
            else None
        )
    except Exception as e:
        spec["mergeError"] = f"{type(e).__name__}: {e}"[:200]
    bases.write_case(d, spec, dict(input_ids=ids.int(), attention_mask=mask.int(), labels=labels.int()), exp)
    extra = f" NOTINFILE {missing}" if missing else ""
    w = [x for x in spec["loadWarnings"] if "ensure_weight_tying" not in x]
    if w or extra or (spec.get("mergedLogitsMaxDifference", 0) > 5e-4 and not (tied and ends)):
        print(name, spec["loadWarnings"], extra, "mergediff", spec.get("mergedLogitsMaxDifference"), spec.get("mergeError", ""))


for b in bases.NAMES:
    if not os.path.exists(f"{OUT}/bases/{b}/reference.safetensors"):
        bases.make_base(OUT, b)

P = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PHI = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
C = []


def add(base, **c):
    C.append((base, c))


# curated
add(
    "llama",
    r=3,
    lora_alpha=5,
    target_modules=P,
    use_dora=True,
    use_rslora=True,
    rank_pattern={"q_proj": 5, "layers.1.mlp.*": 2},
    alpha_pattern={"v_proj": 7.5},
    bias="all",
)
add("llama", r=3, lora_alpha=5, target_modules=P, use_dora=True, bias="lora_only")
add("llama", r=5, lora_alpha=2, target_modules=["q_proj", "up_proj"], lora_bias=True, use_rslora=True, bias="all")
add(
    "llama",
    r=5,
    lora_alpha=2,
    target_modules=["q_proj", "up_proj"],
    lora_bias=True,
    bias="lora_only",
    rank_pattern={"up_proj": 1},
)
for b in ("llama_tied", "qwen2", "granite", "gemma2", "gemma3", "smollm3", "qwen3"):
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens", "q_proj"])
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "v_proj"])
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens", "lm_head", "v_proj"])
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True)
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens", "o_proj"], use_dora=True)
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], trainable_token_indices=[5, 1, 96])
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head"])
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["embed_tokens"], ensure_weight_tying=True)
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])
    add(b, r=2, lora_alpha=6, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"], ensure_weight_tying=True)
    add(
        b,
        r=3,
        lora_alpha=6,
        target_modules=["q_proj"],
        trainable_token_indices={"embed_tokens": [3, 9]},
        modules_to_save=["input_layernorm", "norm"],
    )
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], trainable_token_indices={"lm_head": [3, 9], "embed_tokens": [9, 3]})
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], trainable_token_indices={"lm_head": [3, 9], "embed_tokens": [4]})
    add(b, r=3, lora_alpha=6, target_modules=["q_proj"], trainable_token_indices={"lm_head": [3, 9]})
    add(b, r=3, lora_alpha=6, target_modules=["q_proj", "lm_head"], use_dora=True)
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens", "lm_head"], use_dora=True, ensure_weight_tying=True)
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens", "v_proj"], init_lora_weights="pissa")
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "v_proj"], init_lora_weights="olora")
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens"], trainable_token_indices={"lm_head": [3, 9]})
for b in ("llama_plain", "olmo2", "mistral", "phi3"):
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "embed_tokens"], use_rslora=True)
    add(b, r=3, lora_alpha=6, target_modules=["o_proj"], trainable_token_indices={"lm_head": [3, 9], "embed_tokens": [4]})
    add(b, r=3, lora_alpha=6, target_modules=["o_proj"], trainable_token_indices={"lm_head": [3, 9]})
    add(b, r=3, lora_alpha=6, target_modules=["o_proj"], trainable_token_indices=[3], modules_to_save=["lm_head"])
    add(b, r=3, lora_alpha=6, target_modules=["o_proj", "embed_tokens"], modules_to_save=["lm_head"])
    add(b, r=3, lora_alpha=6, target_modules=["o_proj"], modules_to_save=["mlp"])
    add(b, r=3, lora_alpha=6, target_modules=["o_proj"], modules_to_save=["norm", "down_proj"], bias="all")
    add(b, r=3, lora_alpha=6, target_modules=["embed_tokens", "o_proj", "lm_head"], use_dora=True, use_rslora=True)
    add(b, r=3, lora_alpha=6, target_modules="all-linear", use_dora=True)
    add(b, r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights="pissa")
    add(b, r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights="olora")
    add(
        b,
        r=3,
        lora_alpha=6,
        target_modules="all-linear",
        init_lora_weights="olora",
        use_rslora=True,
        rank_pattern={"down_proj": 2},
        alpha_pattern={"o_proj": 11},
    )
    add(b, r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights="pissa", use_dora=True)
    add(b, r=3, lora_alpha=6, target_modules="all-linear", init_lora_weights="olora", use_dora=True)
    add(b, r=4, lora_alpha=6, target_modules="all-linear", init_lora_weights="orthogonal")
    add(
        b,
        r=4,
        lora_alpha=6,
        target_modules="all-linear",
        init_lora_weights="gaussian",
        exclude_modules=r".*layers\.0\.(mlp|self_attn)\.(down|o)_proj",
    )
add("llama", r=3, lora_alpha=6, target_modules=P, layers_to_transform=[1], layers_pattern="layers")
add("llama", r=3, lora_alpha=6, target_modules=P, layers_to_transform=0, bias="lora_only")
add("gemma3", r=3, lora_alpha=6, target_modules=P, layers_to_transform=[0, 2], use_dora=True)
add("llama", r=3, lora_alpha=6, target_modules=r"model\.layers\.\d+\.(self_attn\.[qv]|mlp\.(?!up).*)_proj", use_rslora=True)
add("llama", r=3, lora_alpha=6, target_modules=r"(?i).*\.Q_PROJ")
add("llama", r=40, lora_alpha=6, target_modules=["k_proj"])
add("llama", r=1, lora_alpha=-3, target_modules=["k_proj"])
add("llama", r=20, lora_alpha=6, target_modules=["k_proj"], init_lora_weights="pissa")
add("llama", r=19, lora_alpha=6, target_modules=["k_proj", "down_proj"], init_lora_weights="olora")
add("llama", r=3, lora_alpha=0, target_modules=["k_proj"])
add("llama", r=3, lora_alpha=6, target_modules=P, lora_bias=True, init_lora_weights="pissa")
add("llama", r=3, lora_alpha=6, target_modules=P, bias="all", init_lora_weights="olora")
for b in ("llama_plain", "olmo2", "phi3", "llama"):
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "o_proj"], init_lora_weights="pissa")
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "o_proj", "embed_tokens"], init_lora_weights="olora", use_rslora=True)
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "o_proj"], init_lora_weights="pissa", use_dora=True)
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "o_proj", "embed_tokens"], init_lora_weights="olora", use_dora=True)
for b in ("llama_tied", "gemma3"):
    add(b, r=3, lora_alpha=6, target_modules=["lm_head", "v_proj"], trainable_token_indices=[5, 1, 96])
add("llama_tied", r=3, lora_alpha=6, target_modules=["q_proj", "Wqkv"], rank_pattern={"k_proj": 1}, exclude_modules=["x9"])
add("llama", r=4, lora_alpha=6, target_modules=["q_proj", "up_proj"], rank_pattern={"q_proj": 3}, init_lora_weights="orthogonal")
# random
rng = random.Random(int(os.environ.get("SEED", "606")))
for i in range(int(os.environ.get("N", "60"))):
    b = rng.choice(bases.NAMES)
    mods = PHI if b == "phi3" else P
    c = dict(r=rng.choice([1, 2, 3, 5, 6]), lora_alpha=rng.choice([1, 3, 4.5, 8, 17]))
    t = rng.sample(mods, rng.randint(1, len(mods)))
    if rng.random() < 0.25:
        t.append("embed_tokens")
    if rng.random() < 0.2:
        t.append("lm_head")
    k = rng.random()
    if k < 0.15:
        t = "all-linear"
    elif k < 0.25:
        t = r".*\.(%s)" % "|".join(rng.sample(mods, 2))
    c["target_modules"] = t
    if rng.random() < 0.4:
        c["use_rslora"] = True
    if rng.random() < 0.35:
        c["use_dora"] = True
    elif rng.random() < 0.25:
        c["lora_bias"] = True
    if rng.random() < 0.4:
        c["bias"] = rng.choice(["all", "lora_only"])
    if rng.random() < 0.35:
        c["rank_pattern"] = {
            rng.choice(t if isinstance(t, list) else ["o_proj"]): rng.choice([1, 4, 7]),
            r"layers\.1\..*": rng.choice([2, 3]),
        }
    if "rank_pattern" in c:
        c["rank_pattern"] = dict(sorted(c["rank_pattern"].items()))
    if rng.random() < 0.35:
        c["alpha_pattern"] = {rng.choice(t if isinstance(t, list) else ["o_proj"]): rng.choice([1, 4, 7.5])}
    if rng.random() < 0.3:
        c["modules_to_save"] = rng.sample(["lm_head", "embed_tokens", "norm", "post_attention_layernorm"], rng.randint(1, 2))
    if rng.random() < 0.2:
        c["trainable_token_indices"] = rng.sample(range(97), rng.randint(1, 5))
    if rng.random() < 0.3:
        c["init_lora_weights"] = rng.choice(["gaussian", "pissa", "olora", False, "orthogonal"])
    if rng.random() < 0.3:
        c["ensure_weight_tying"] = True
    if isinstance(t, list) and rng.random() < 0.15:
        c["layers_to_transform"] = [1]
    if isinstance(t, list) and rng.random() < 0.15:
        c["exclude_modules"] = rng.choice([["layers.0.self_attn.q_proj", "layers.0.mlp.down_proj"], r".*0\.self_attn.*"])
    C.append((b, c))
for i, (b, c) in enumerate(C):
    case(f"a{i:03d}-{b}", b, c, 900 + i)
print(len(C), "configs")
