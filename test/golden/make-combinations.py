"""Makes golden cases of kinds combine, targets, api_text and nf4 beyond the shared set, at random by SEED (1):
python make-combinations.py OUT [combine|targets|api|nf4 …], after make-adapters.py OUT, which makes the bases.

Needs torch, transformers 5, peft 0.21 and, for nf4, bitsandbytes.
"""

import json
import os
import sys
import random
import re
import warnings
import contextlib
import io
import torch
import peft_bases as bases
from in_float64 import float64
import transformers

transformers.utils.logging.disable_progress_bar()
from peft import LoraConfig, PeftModel, get_peft_model

warnings.simplefilter("ignore")
OUT = sys.argv[1] + "/peft"
KINDS = sys.argv[2:] or ["combine", "targets", "api", "nf4"]
SEED = int(os.environ.get("SEED", "1"))
rng = random.Random(SEED)


def fresh(name, spec, inputs=None, expected=None):
    bases.write_case(f"{OUT}/{name}", spec, inputs, expected)


P = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

if "combine" in KINDS:
    base = "llama"
    ids, mask, labels, _ = bases.ref(f"{OUT}/bases/{base}")
    sets = {
        "plain": {
            "a": dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj", "down_proj"]),
            "b": dict(r=3, lora_alpha=8, target_modules=["v_proj", "o_proj"], use_rslora=True),
            "c": dict(r=3, lora_alpha=2, target_modules=P),
        },
        "ranks": {
            "a": dict(r=2, lora_alpha=5, target_modules=["q_proj", "v_proj"]),
            "b": dict(
                r=5, lora_alpha=8, target_modules=["v_proj", "o_proj"], rank_pattern={"o_proj": 1}, alpha_pattern={"v_proj": 3.5}
            ),
            "c": dict(r=1, lora_alpha=2, target_modules=P),
        },
        "embed": {
            "a": dict(r=3, lora_alpha=5, target_modules=["q_proj", "embed_tokens"]),
            "b": dict(r=3, lora_alpha=8, target_modules=["embed_tokens", "lm_head"]),
            "c": dict(r=3, lora_alpha=2, target_modules=["lm_head"]),
        },
        "regex": {
            "a": dict(r=3, lora_alpha=5, target_modules=r".*\.(q|v)_proj"),
            "b": dict(r=3, lora_alpha=8, target_modules=r".*layers\.1\..*(up|v)_proj"),
            "c": dict(r=3, lora_alpha=8, target_modules=r".*layers\.0\..*(up|k)_proj"),
        },
    }
    real = torch.bernoulli
    for sname, ads in sets.items():
        for k, c in ads.items():
            bases.adapter(f"{OUT}/adapters-c{SEED}-{sname}/{k}", f"{OUT}/bases/{base}", SEED * 100 + ord(k), **c)
        for typ in [
            "linear",
            "cat",
            "svd",
            "ties",
            "ties_svd",
            "dare_linear",
            "dare_ties",
            "dare_linear_svd",
            "dare_ties_svd",
            "magnitude_prune",
            "magnitude_prune_svd",
        ]:
            for order in (["a", "b"], ["b", "c", "a"], ["c"]):
                name = f"c{SEED}-{sname}-{typ}-{''.join(order)}"
                w = [rng.choice([1.0, 0.5, -0.7, 1.3, 0.25]) for _ in order]
                o = {}
                if re.search("ties|dare|prune", typ):
                    o["density"] = rng.choice(
                        [0.3, 0.5, 0.77, 0.9, 1.0, 0.1] if "dare" in typ else [0.3, 0.5, 0.77, 1.0, 0.1, 0.0]
                    )
                if "ties" in typ:
                    o["majority_sign_method"] = rng.choice(["total", "frequency"])
                if typ.endswith("svd") and rng.random() < 0.5:
                    o["svd_rank"] = rng.choice([1, 2, 4, 7])
                m = PeftModel.from_pretrained(
                    bases.load(f"{OUT}/bases/{base}"), f"{OUT}/adapters-c{SEED}-{sname}/{order[0]}", adapter_name=order[0]
                ).eval()
                for k in order[1:]:
                    m.load_adapter(f"{OUT}/adapters-c{SEED}-{sname}/{k}", k)
                m.double()
                rec = []

                def fake(t, **kw):
                    r = real(t)
                    rec.append(r.to(torch.uint8))
                    return r

                torch.bernoulli = fake
                torch.manual_seed(SEED)
                try:
                    with float64():  # the library's SVD too
                        m.base_model.add_weighted_adapter(order, w, "mix", combination_type=typ, **o)
                    m.double()
                    err = None
                except Exception as e:
                    err = f"{type(e).__name__}: {e}"
                torch.bernoulli = real
                if err:
                    fresh(
                        name,
                        dict(
                            kind="error",
                            stage="combine",
                            base=f"bases/{base}",
                            adapters={k: f"adapters-c{SEED}-{sname}/{k}" for k in order},
                            order=order,
                            weights=w,
                            combinationType=typ,
                            options=o,
                            resultName="mix",
                            should="error",
                            description=err,
                        ),
                    )
                    continue
                from peft.tuners.lora import LoraLayer

                ins = dict(input_ids=ids.int(), attention_mask=mask.int(), labels=labels.int())
                exp = {}
                ranks = {}
                ri = iter(rec)
                kind = "linear" if len(order) == 1 else typ
                for n, x in m.named_modules():
                    if not isinstance(x, LoraLayer):
                        continue
                    n = n.replace("base_model.model.", "", 1)
                    emb = "mix" in x.lora_embedding_A
                    if not emb and "mix" not in x.lora_A:
                        continue
                    ranks[n] = x.r["mix"]
                    x.scaling["mix"] = 1.0
                    A = x.lora_embedding_A["mix"] if emb else x.lora_A["mix"].weight
                    B = x.lora_embedding_B["mix"] if emb else x.lora_B["mix"].weight
                    if not emb:
                        if kind.endswith("svd"):
                            exp["delta." + n] = B @ A
                        else:
                            exp["A." + n] = A
                            exp["B." + n] = B
                    here = [k for k in order if k in x.lora_A or k in x.lora_embedding_A]
                    if "dare" in kind and o["density"] < 1:
                        if kind.endswith("svd"):
                            for k in here:
                                mk = next(ri)
                                ins[f"mask.{n}.{k}.delta"] = mk.T if emb else mk
                        else:
                            for q in "AB":
                                for k in here:
                                    ins[f"mask.{n}.{k}.{q}"] = next(ri)
                assert next(ri, None) is None
                m.base_model.set_adapter("mix")
                with torch.no_grad(), float64():
                    exp["logits"] = m(input_ids=ids, attention_mask=mask).logits
                c = m.peft_config["mix"]
                tm = sorted(ranks) if isinstance(c.target_modules, str) or "regex" in sname else sorted(c.target_modules)
                fresh(
                    name,
                    dict(
                        kind="combine",
                        description=f"{sname} {typ} {order} {w} {o}",
                        base=f"bases/{base}",
                        adapters={k: f"adapters-c{SEED}-{sname}/{k}" for k in order},
                        order=order,
                        weights=w,
                        combinationType=typ,
                        options=o,
                        masks=len(rec) > 0,
                        result=dict(r=c.r, lora_alpha=c.lora_alpha, target_modules=tm, ranks=ranks),
                        tolerance=dict(logits=3e-4, A=1e-5, B=1e-5, delta=5e-5),
                    ),
                    ins,
                    exp,
                )

if "targets" in KINDS:
    gold = json.load(open(os.path.join(os.path.dirname(__file__), "../../../shared/golden/peft/targets/case.json")))
    models = {}
    entries = []
    from peft.tuners.lora import LoraLayer

    for b, L in (("llama", 11), ("phi3", 2), ("gemma3", 4), ("qwen3", 2)):
        from transformers import AutoConfig, AutoModelForCausalLM

        st = bases.base_settings(b)
        mt = st.pop("model_type")
        st["num_hidden_layers"] = L
        st.pop("no_rope_layers", None)

        def mk():
            return AutoModelForCausalLM.from_config(AutoConfig.for_model(mt, **st))

        m = mk()
        names = [n for n, _ in m.named_modules() if n]
        kinds = {
            n: ("Linear" if isinstance(x, torch.nn.Linear) else "Embedding")
            for n, x in m.named_modules()
            if isinstance(x, (torch.nn.Linear, torch.nn.Embedding))
        }
        models[b] = dict(modelType=mt, names=names, kinds=kinds, outputEmbedding="lm_head")
        mods = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"] if b == "phi3" else P
        cs = []
        for _ in range(60):
            c = {}
            r = rng.random()
            if r < 0.3:
                c["target_modules"] = rng.sample(mods, rng.randint(1, 3))
            elif r < 0.4:
                c["target_modules"] = [
                    rng.choice(
                        [
                            "self_attn.o_proj",
                            "1.mlp.down_proj",
                            "layers.1.self_attn.o_proj",
                            "model.layers.0.mlp.down_proj",
                            "embed_tokens",
                            "lm_head",
                            "proj",
                            "mlp.down",
                        ]
                    )
                ]
            elif r < 0.9:
                c["target_modules"] = rng.choice(
                    [
                        r".*o_proj",
                        r".*\.(?:o|down)_proj$",
                        r"model\.layers\.[0-1]\..*_proj",
                        r"(?!.*mlp).*o_proj",
                        r".*layers\.(\d)\.mlp\.down_proj",
                        r"model\.layers\.(?P<n>\d+)\.self_attn\.o_proj",
                        r".*\.[^.]*d[^.]*_proj",
                        r"^.*self_attn.*proj$",
                        r".*(?<=attn\.)o_proj",
                        r"(.*\.)?(o|down)_proj",
                        r"lm_head|.*o_proj",
                        r".*\.o_proj\Z",
                        r".*o_pro",
                        r".*layers\.\d{1,2}\.mlp\.\w+_proj",
                        r"(?x) .* \. o_proj",
                        r".*\b[od]\w*_proj",
                        r"model.layers.1.*down_proj",
                        r".*(o_proj|down_proj){1}",
                    ]
                )
            else:
                c["target_modules"] = "all-linear"
            if isinstance(c["target_modules"], list):
                if rng.random() < 0.4:
                    c["layers_to_transform"] = rng.choice([0, [0], [1], [0, 1], [1, 3], []])
                if "layers_to_transform" in c and rng.random() < 0.5:
                    c["layers_pattern"] = rng.choice(["layers", ["layers"], ["h", "layers"], "layer"])
            if rng.random() < 0.35:
                c["exclude_modules"] = rng.choice(
                    [
                        ["o_proj"],
                        ["layers.0.self_attn.o_proj"],
                        r".*\.0\..*",
                        r".*mlp.*",
                        ["lm_head"],
                        "down_proj",
                        r"model\.layers\.[^1]\..*",
                        ["0.mlp.down_proj"],
                    ]
                )
            if rng.random() < 0.2:
                c["modules_to_save"] = rng.choice([["lm_head"], ["norm"], ["embed_tokens"], ["self_attn.o_proj"], ["o_proj"]])
            cs.append(c)
        for c in cs:
            e = dict(model=b, config=c)
            try:
                cfg = LoraConfig(task_type="CAUSAL_LM", **json.loads(json.dumps(c)))
            except Exception as x:
                e["configError"] = str(x)[:100]
                entries.append(e)
                continue
            try:
                m = get_peft_model(mk(), cfg)
                e["injected"] = [n.replace("base_model.model.", "", 1) for n, x in m.named_modules() if isinstance(x, LoraLayer)]
                tm = cfg.target_modules
                e["resolvedTargetModules"] = tm if isinstance(tm, str) else sorted(tm)
            except Exception as x:
                e["injectError"] = str(x)[:120]
            entries.append(e)
    fresh(
        f"t{SEED}-targets",
        dict(kind="targets", description="random", models=models, entries=entries, defaultTargets=gold["defaultTargets"]),
    )

if "api" in KINDS:
    entries = []
    for b in bases.NAMES:
        mods = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"] if b == "phi3" else P
        for i in range(6):
            c = dict(
                r=rng.choice([1, 3, 8, 33]),
                target_modules=rng.choice(["all-linear", rng.sample(mods, 2), ["embed_tokens", mods[0]], [mods[1], "lm_head"]]),
            )
            if rng.random() < 0.5:
                c["bias"] = rng.choice(["all", "lora_only"])
            if rng.random() < 0.3:
                c["use_dora"] = True
            if rng.random() < 0.3:
                c["modules_to_save"] = ["norm"]
            if rng.random() < 0.3 and "embed_tokens" not in c["target_modules"]:
                c["trainable_token_indices"] = [1, 2, 7]
            m = get_peft_model(bases.load(f"{OUT}/bases/{b}"), LoraConfig(task_type="CAUSAL_LM", **c))
            tr, al = m.get_nb_trainable_parameters()
            buf = io.StringIO()
            with contextlib.redirect_stdout(buf):
                m.print_trainable_parameters()
            entries.append(
                dict(
                    base=f"bases/{b}",
                    quantised=None,
                    config=c,
                    name=f"{b} {json.dumps(c)}",
                    trainable=tr,
                    all=al,
                    text=buf.getvalue().strip(),
                )
            )
    fresh(f"p{SEED}-api", dict(kind="api_text", description="", entries=entries))

if "nf4" in KINDS:
    import bitsandbytes.functional as BF

    g = torch.Generator().manual_seed(SEED * 3 + 1)
    for i, shape in enumerate([[1, 2], [5, 13], [31, 33], [64, 65], [127, 129], [3, 1023], [1, 4097], [257]]):
        for dt in ("float32", "bfloat16", "float16"):
            x = (torch.randn(shape, generator=g) * 10 ** rng.uniform(-4, 3)).to(getattr(torch, dt))
            exp = {}
            configs = []
            for q in ("nf4", "fp4"):
                for bs in (64, 128, 256, 512, 1024, 2048, 4096):
                    if bs != 64 and rng.random() < 0.6:
                        continue
                    codes, st = BF.quantize_4bit(x, blocksize=bs, quant_type=q)
                    L = f"{q}.{bs}"
                    configs.append(dict(label=L, quantType=q, blocksize=bs, nested=False))
                    exp[L + ".codes"] = codes.flatten()
                    exp[L + ".absmax"] = st.absmax.float()
                    st.dtype = torch.float32
                    exp[L + ".dequant_fp32"] = BF.dequantize_4bit(codes, st).flatten().float()
            fresh(
                f"n{SEED}-{i}-{dt}",
                dict(
                    kind="nf4",
                    description=f"{shape} {dt}",
                    sourceDtype=dt,
                    shape=shape,
                    configs=configs,
                    nestedBlocksize=256,
                    tolerance=dict(codes=0, absmax=0, offset=1e-7, dequant_fp32=1e-6, dequant_bf16=0),
                ),
                dict(x=x.float() if dt == "float16" else x),
                exp,
            )
