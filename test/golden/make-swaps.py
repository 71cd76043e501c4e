"""Makes golden cases of kinds swap and hotswap beyond the shared set, with weights by SEED (1): python make-swaps.py OUT, after
make-adapters.py OUT, which makes the bases.

Needs torch, transformers 5 and peft 0.21; everything is computed in float64. PEFT's merge_adapter leaves modules_to_save alone, and the active
adapters on layers that it merges nothing into; it moves both ends of a tied model, and measures DoRA's lengths on what was merged before. Where
its merged model differs from its own sum of the same adapters, the sum is expected, and what it gave is kept as `NAME_library`.
"""

import json
import os
import sys

import peft_bases as bases
import torch
import transformers
from in_float64 import float64

from peft import PeftModel

transformers.utils.logging.disable_progress_bar()
OUT = sys.argv[1] + "/peft"
SEED = int(os.environ.get("SEED", "1"))
P = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = dict(
    qv=dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"]),
    v=dict(r=2, lora_alpha=3, target_modules=["v_proj"]),
    down=dict(r=4, lora_alpha=7, target_modules=["down_proj"]),
    down_q=dict(r=4, lora_alpha=7, target_modules=["down_proj", "q_proj"]),
    down_q_norm=dict(r=4, lora_alpha=7, target_modules=["down_proj", "q_proj"], modules_to_save=["norm"]),
    v_head_copy=dict(r=2, lora_alpha=3, target_modules=["v_proj"], modules_to_save=["lm_head"]),
    qv_olora=dict(r=3, lora_alpha=5, target_modules=["q_proj", "v_proj"], init_lora_weights="olora"),
    v_dora=dict(r=2, lora_alpha=3, target_modules=["v_proj"], use_dora=True),
    ov_dora=dict(r=3, lora_alpha=5, target_modules=["o_proj", "v_proj"], use_dora=True),
    all_dora=dict(r=2, lora_alpha=3, target_modules=P, use_dora=True),
    q_bias=dict(r=3, lora_alpha=5, target_modules=["q_proj"], lora_bias=True),
    v_up_bias=dict(r=4, lora_alpha=7, target_modules=["v_proj", "up_proj"], lora_bias=True, use_rslora=True),
    q_embed=dict(r=3, lora_alpha=5, target_modules=["q_proj", "embed_tokens"]),
    v_embed=dict(r=4, lora_alpha=7, target_modules=["v_proj", "embed_tokens"]),
    embed_head_copy=dict(r=1, lora_alpha=7, target_modules=["embed_tokens"], modules_to_save=["lm_head"]),
    patterns_rows=dict(r=3, lora_alpha=1, target_modules=P, rank_pattern={"o_proj": 1}, alpha_pattern={"q_proj": 9}, trainable_token_indices=[5, 6]),
    qkv=dict(r=3, lora_alpha=5, target_modules=["qkv_proj"]),
    all_linear=dict(r=2, lora_alpha=3, target_modules="all-linear"),
    gate_up_head=dict(r=4, lora_alpha=7, target_modules=["gate_up_proj", "lm_head"], rank_pattern={"lm_head": 1}),
)
SWAPS = [
    ("llama", ("qv", "all_dora", "v_up_bias")),
    ("llama", ("ov_dora", "all_dora", "v_embed")),
    ("phi3", ("qkv", "all_linear", "gate_up_head")),
    ("llama_plain", ("q_embed", "v_head_copy", "down")),
    ("llama", ("q_bias", "v_dora", "down_q_norm")),
    ("gemma3", ("q_embed", "v_embed", "down_q")),
    ("llama_plain", ("qv_olora", "v", "down")),
]
HOTSWAPS = [("llama", ("qv", "all_dora", "v_up_bias", "embed_head_copy", "patterns_rows")), ("phi3", ("qkv", "all_linear", "gate_up_head"))]
SUMS = ("ab", "ba", "ac", "ca", "bc", "abc", "cba")
MERGES = ("a", "b", "ac", "bc", "cba")
MIXED = (("a", "b", "__base__", "c"), ("b", "b", "a", "__base__"), ("c", "__base__", "a", "a"))


class Case:
    """A base, adapters by the names a, b, …, and inputs of its own."""

    def __init__(self, kind, number, base, names, rows, width):
        self.name = f"{kind[0]}{SEED}-{number}-{base}"
        self.base, self.names = base, dict(zip("abcde", names))
        self.folders = {k: f"adapters-{kind[0]}{SEED}-{number}/{k}" for k in self.names}
        for k, name in self.names.items():
            bases.adapter(f"{OUT}/{self.folders[k]}", f"{OUT}/bases/{base}", SEED * 1000 + number * 10 + ord(k), **ADAPTERS[name])
        self.ids, self.mask, _ = bases.inputs(torch.Generator().manual_seed(SEED * 77 + number), rows, width)

    def model(self, first="a", rest=""):
        """With adapters loaded, the first of them active."""
        m = PeftModel.from_pretrained(bases.load(f"{OUT}/bases/{self.base}"), f"{OUT}/{self.folders[first]}", adapter_name=first).eval()
        for k in rest:
            m.load_adapter(f"{OUT}/{self.folders[k]}", k)
        m.set_adapter(first)
        return m.double()

    def logits(self, m, **more):
        with torch.no_grad(), float64():
            return m(input_ids=self.ids, attention_mask=self.mask, **more).logits

    def write(self, kind, steps, expected, **more):
        spec = dict(kind=kind, description=" ".join(self.names.values()), base=f"bases/{self.base}", adapters=self.folders, steps=steps,
                    tolerance=dict(logits=3e-4, unmerged=1e-4), **more)
        bases.write_case(f"{OUT}/{self.name}", spec, dict(input_ids=self.ids.int(), attention_mask=self.mask.int()), expected)


def quoted(names):
    return ", ".join(f"'{k}'" for k in names)


def swap(number, base, names):
    c = Case("swap", number, base, names, 4, 9)
    expected, steps = {"logits.base": c.logits(bases.load(f"{OUT}/bases/{base}").double())}, []
    takes_start = any("init_lora_weights" in ADAPTERS[name] for name in names)  # PEFT leaves the base changed for the others

    def step(key, call, compute, **more):
        if takes_start and key != "a":
            return
        try:
            expected[f"logits.{key}"] = compute(c.model("a", "bc"))
            steps.append(dict(key=key, call=call, **more))
        except Exception as e:
            print(c.name, key, type(e).__name__, str(e)[:160])

    def chosen(m, names):
        m.base_model.set_adapter(list(names))
        return c.logits(m)

    def merged(key, names, logits):
        """What merging `names` should give, and what it gave."""
        wanted = chosen(c.model("a", "bc"), names)
        if (wanted - logits).abs().max() > 1e-4:
            expected[f"logits.{key}_library"] = logits
        return wanted

    def merge(m, key, names):
        m.merge_adapter(list(names))
        return merged(key, names, c.logits(m))

    for k in "abc":
        step(k, f"set_adapter('{k}')", lambda m: chosen(m, k), active=[k])
    for names in SUMS:
        step(f"sum_{names}", f"base_model.set_adapter([{quoted(names)}])", lambda m: chosen(m, names), active=list(names))
    for rows in MIXED:
        key = "mixed_" + "".join(row[0] for row in rows)
        step(key, "forward()", lambda m: c.logits(m, adapter_names=list(rows)), active=["a"], rows=list(rows))
    for names in MERGES:
        key = f"merged_{names}"
        step(key, f"unmerge_adapter(); set_adapter('a'); merge_adapter([{quoted(names)}])", lambda m: merge(m, key, names))
        step(f"unmerged_{names}", "unmerge_adapter(); set_adapter('b')", lambda m: chosen(m, "b"), active=["b"])
    step("del", "set_adapter('c'); delete_adapter('b')", lambda m: chosen(m, "c"), active=["c"], adaptersLeft=["a", "c"])
    steps.append(dict(key="unloaded", call="unload()"))
    expected["logits.unloaded"] = expected["logits.base"]
    step("mau_ac", "merge_and_unload(adapter_names=['a', 'c'])",
         lambda m: merged("mau_ac", "ac", c.logits(m.merge_and_unload(adapter_names=["a", "c"]))))
    c.write("swap", steps, expected, refused=[])


def hotswap(number, base, names):
    c = Case("hotswap", number, base, names, 3, 6)
    expected = {f"logits.{k}": c.logits(c.model(k)) for k in c.names}
    steps = [dict(key=f"{j}_to_{k}", loaded=j, logits=f"logits.{k}") for k in c.names for j in c.names if j != k]
    c.folders["same"] = c.folders["a"]
    c.write("hotswap", [*steps, dict(key="while_merged")], expected, loaded="a")


for i, (base, names) in enumerate(SWAPS):
    swap(i, base, names)
for i, (base, names) in enumerate(HOTSWAPS):
    hotswap(i, base, names)
