"""Makes golden cases of kind qlora beyond the shared set: python make-qlora.py OUT, after make-adapters.py OUT, which makes the bases.

A 4-bit checkpoint of every base as transformers and bitsandbytes save it, in nf4, fp4 and nf4 with double quantisation, and an adapter on it
by SEED (1). Expected values are computed in float64 from what bitsandbytes dequantises; merged codes are what it makes of base plus adapter.
Needs torch, transformers 5, peft 0.21 and bitsandbytes.
"""

import contextlib
import io
import os
import sys

import bitsandbytes as bnb
import peft_bases as bases
import torch
import transformers
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from in_float64 import float64
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from peft import PeftModel

transformers.utils.logging.disable_progress_bar()
OUT = sys.argv[1] + "/peft"
SEED = int(os.environ.get("SEED", "1"))
P = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def quantised(base, quant_type, double):
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quant_type, bnb_4bit_use_double_quant=double)
    return AutoModelForCausalLM.from_pretrained(base, quantization_config=config, dtype=torch.float32, device_map="cpu")


@torch.no_grad()
def dense(base, model):
    """The base with the weights that the quantised one stands for."""
    out = bases.load(base)
    modules = dict(out.named_modules())
    for name, linear in model.named_modules():
        if isinstance(linear, bnb.nn.Linear4bit):
            weight = modules[name].weight
            weight.copy_(dequantize_4bit(linear.weight.data, linear.weight.quant_state).reshape(weight.shape))
    return out


def make(number, name, quant_type, double):
    base = f"{OUT}/bases/{name}"
    case = f"q{SEED}-{name}-{quant_type}{'-dq' if double else ''}"
    folder = f"{OUT}/{case}"
    model = quantised(base, quant_type, double)
    model.save_pretrained(f"{folder}/model")
    with contextlib.suppress(FileNotFoundError):
        os.remove(f"{folder}/model/generation_config.json")
    targets = "all-linear" if number % 2 else ["qkv_proj", "down_proj"] if name == "phi3" else P
    config = dict(r=3, lora_alpha=5, target_modules=targets, use_dora=number % 3 == 0)
    bases.adapter(f"{folder}/adapter", base, SEED * 100 + number, **config)
    ids, mask, labels, _ = bases.ref(base)
    peft = PeftModel.from_pretrained(dense(base, model), f"{folder}/adapter", is_trainable=True).double().eval()
    counted = io.StringIO()
    with contextlib.redirect_stdout(counted):
        peft.print_trainable_parameters()
    trainable, total = peft.get_nb_trainable_parameters()
    with float64():
        out = peft(input_ids=ids, attention_mask=mask, labels=labels)
        out.loss.backward()
        with torch.no_grad(), peft.disable_adapter():
            expected = dict(logits=out.logits, logits_base=peft(input_ids=ids, attention_mask=mask).logits)
        for key, p in peft.named_parameters():
            if p.requires_grad:
                short = key.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector").replace(".default", "")
                expected[f"grad.{short}"] = p.grad.clone()
        merged = dict(peft.merge_and_unload().named_modules())
    for key, linear in model.named_modules():
        # FP4 has two codes for zero, and its neighbours are not numbered in order.
        if isinstance(linear, bnb.nn.Linear4bit) and "layers.1." in key and quant_type == "nf4":
            weight = merged[key].weight.detach().type(torch.float32)
            expected[f"merged_codes.{key}.weight"] = quantize_4bit(weight, blocksize=64, quant_type=quant_type)[0].flatten()
    tolerance = dict(logits=3e-4, loss=3e-5, grad=3e-4, note="absolute; relative 1e-3 is fine for values above 1")
    spec = dict(kind="qlora", description=f"{name} {quant_type} {config}", model=f"{case}/model", base=f"bases/{name}", adapter=f"{case}/adapter",
                quantType=quant_type, doubleQuant=double, blocksize=64, computeDtype="float32", loss=float(out.loss.detach()), trainableParameters=trainable,
                allParameters=total, printTrainableParameters=counted.getvalue().strip(), tolerance=tolerance)
    bases.write_case(folder, spec, dict(input_ids=ids.int(), attention_mask=mask.int(), labels=labels.int()), expected)


for number, name in enumerate(bases.NAMES):
    for quant_type, double in (("nf4", False), ("nf4", True), ("fp4", False)):
        make(number, name, quant_type, double)
