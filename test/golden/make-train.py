"""Makes golden cases of kinds sft_run, eval, optimizer and op (cases/train/README.md) at random: python make-train.py OUT [run|eval|optimizer|op …].

N (40) runs and three times as many of the rest by SEED (1), on the bases of peft_bases.py. Needs torch, transformers 5, peft 0.21 and, for its
tables of codes, bitsandbytes. Everything is computed in float64, but for states of 8 bits, which are updated in float32 as on CUDA.
"""

import math
import os
import random
import sys

import peft_bases as bases
import torch
import transformers
from in_float64 import float64
from transformers.optimization import Adafactor, get_scheduler

from peft import LoraConfig, get_peft_model

transformers.utils.logging.disable_progress_bar()
OUT = sys.argv[1] + "/train"
KINDS = sys.argv[2:] or ["run", "eval", "optimizer", "op"]
SEED = int(os.environ.get("SEED", "1"))
N = int(os.environ.get("N", "40"))
rng = random.Random(SEED)
P = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FILES = dict(inputs="inputs.safetensors", expectedTensors="expected.safetensors")


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, params, lr, betas, weight_decay):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("exp_avg", torch.zeros_like(p))
                update = (b1 * m + (1 - b1) * p.grad).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * update)
                m.mul_(b2).add_((1 - b2) * p.grad)


class Blockwise:
    """Moments in codes of 8 bits with a scale for each 256, as bitsandbytes' CUDA kernels keep them."""

    def __init__(self, signed, like):
        from bitsandbytes.functional import create_dynamic_map

        self.table = create_dynamic_map(signed).type(torch.float32)
        self.signed, self.shape = signed, like.shape
        zero = int((self.table == 0).nonzero()[0])
        self.codes = torch.full((like.numel(),), zero, dtype=torch.int64)
        self.absmax = torch.zeros(-(-like.numel() // 256))

    def scale(self):
        return self.absmax.repeat_interleave(256)[: self.codes.numel()]

    def values(self):
        return (self.table[self.codes] * self.scale()).reshape(self.shape)

    def store(self, x):
        x = x.flatten()
        padded = torch.nn.functional.pad(x.abs(), (0, -x.numel() % 256))
        self.absmax = padded.reshape(-1, 256).amax(1)
        normed = torch.where(self.scale() > 0, x / self.scale(), torch.zeros_like(x))
        self.codes = torch.bucketize(normed, (self.table[1:] + self.table[:-1]) / 2)
        if self.signed:  # a moment keeps its sign
            turned = torch.signbit(self.table[self.codes]) != torch.signbit(x)
            self.codes = torch.where(turned, self.codes + torch.where(x > 0, 1, -1), self.codes)


class AdamW8bit(torch.optim.Optimizer):
    """Moments of parameters of at least `min8bit` elements in 8 bits, of others in float32."""

    def __init__(self, params, lr, betas, eps, weight_decay, min8bit=4096):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.min8bit, self.count = min8bit, 0

    @torch.no_grad()
    def step(self):
        self.count += 1
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s = self.state[p]
                eight = p.numel() >= self.min8bit
                if not s:
                    s.update(m=Blockwise(True, p) if eight else torch.zeros_like(p, dtype=torch.float32), v=Blockwise(False, p) if eight else torch.zeros_like(p, dtype=torch.float32))
                m, v = (s["m"].values(), s["v"].values()) if eight else (s["m"], s["v"])
                grad = p.grad.type(torch.float32)
                m, v = m * b1 + (1 - b1) * grad, v * b2 + (1 - b2) * grad * grad
                size = group["lr"] * math.sqrt(1 - b2**self.count) / (1 - b1**self.count)
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(size * m / (v.sqrt() + group["eps"] * math.sqrt(1 - b2**self.count)))
                for key, value in (("m", m), ("v", v)):
                    if eight:
                        s[key].store(value)
                    else:
                        s[key] = value


def random_optimizer():
    name = rng.choice(["sgd", "sgd", "adam", "adamw", "lion", "adafactor", "adamw_8bit"])
    decay = rng.choice([0.0, 0.01, 0.1])
    betas = rng.choice([[0.9, 0.999], [0.8, 0.95], [0.95, 0.98]])
    lr = dict(sgd=0.05, lion=5e-4, adafactor=2e-3).get(name, 2e-3) * rng.choice([0.5, 1, 2])
    if name == "sgd":
        momentum = rng.choice([0.0, 0.5, 0.9])
        more = dict(momentum=momentum, nesterov=momentum > 0 and rng.random() < 0.5)
        if momentum > 0 and not more["nesterov"] and rng.random() < 0.4:
            more["dampening"] = 0.3
    elif name == "adafactor":
        more = dict(eps=[1e-30, 1e-3], clip_threshold=rng.choice([1.0, 0.5]), decay_rate=rng.choice([-0.8, -0.5]), beta1=rng.choice([None, 0.9]),
                    scale_parameter=rng.random() < 0.5, relative_step=False)
    else:
        more = dict(betas=betas) if name == "lion" else dict(betas=betas, eps=rng.choice([1e-8, 1e-3]))
    if name == "adamw_8bit":
        more["min_8bit_size"] = rng.choice([200, 4096])
    return dict(name=name, lr=lr, weight_decay=decay, **more)


def make_optimizer(params, o):
    rest = {k: v for k, v in o.items() if k not in ("name", "min_8bit_size", "blockSize", "min8bitSize")}
    if o["name"] == "adamw_8bit":
        return AdamW8bit(params, **rest, min8bit=o["min_8bit_size"])
    kinds = dict(sgd=torch.optim.SGD, adam=torch.optim.Adam, adamw=torch.optim.AdamW, lion=Lion, adafactor=Adafactor)
    return kinds[o["name"]](params, **rest)


def batches(g, count, hidden=None):
    """Padded rows, whose prompts are no targets, and NEFTune's draws for every column."""
    out = []
    for _ in range(count):
        rows, width = rng.randint(1, 3), rng.randint(5, 11)
        ids = torch.randint(3, bases.V, (rows, width), generator=g)
        mask, labels = torch.ones_like(ids), ids.clone()
        for r in range(rows):
            end = width if r == 0 else rng.randint(2, width)
            labels[r, : rng.randint(0, end - 1)] = -100
            ids[r, end:], mask[r, end:], labels[r, end:] = 0, 0, -100
        batch = dict(input_ids=ids, attention_mask=mask, labels=labels)
        if hidden:
            batch["neftune_noise"] = torch.rand(rows, width, hidden, generator=g) * 2 - 1
        out.append(batch)
    return out


def numbered(all_batches):
    narrow = lambda t: t.type(torch.float32) if t.is_floating_point() else t.int()
    return {f"{k}.{i}": narrow(t) for i, batch in enumerate(all_batches) for k, t in batch.items()}


def log_probs(model, batch):
    """Logits that predict the targets, and the targets."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    targets = batch["labels"][:, 1:]
    return logits.log_softmax(-1)[targets != -100], targets[targets != -100]


def loss_sum(model, batch, smoothing):
    p, targets = log_probs(model, batch)
    nll = -p.gather(1, targets[:, None]).sum()
    return (1 - smoothing) * nll - smoothing * p.mean(-1).sum()


def prepared(base, full):
    model = bases.load(f"{OUT}/bases/{base}")
    if full:
        return model.double(), None, {}
    config = dict(r=rng.choice([2, 3, 8]), lora_alpha=rng.choice([4, 9]))
    config["target_modules"] = "all-linear" if base == "phi3" else rng.sample(P, rng.randint(1, 4))
    if rng.random() < 0.3:
        config["use_dora"] = True
    if rng.random() < 0.3:
        config["use_rslora"] = True
    extras = [dict(bias="all"), dict(bias="lora_only"), dict(modules_to_save=["norm"]), dict(modules_to_save=["lm_head", "input_layernorm"]),
              dict(trainable_token_indices=[5, 9, 3]), dict(target_modules=["embed_tokens", "o_proj"]), dict(rank_pattern={"o_proj": 1}, alpha_pattern={"o_proj": 7})]
    if rng.random() < 0.5 and not model.config.tie_word_embeddings:
        config.update(rng.choice(extras))
    if "rank_pattern" in config:
        config["target_modules"] = ["o_proj", "down_proj"]
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for n, p in peft.named_parameters():
            if "lora_" in n and "magnitude" not in n:
                p.copy_(0.2 * torch.randn_like(p))
    start = {f"adapter.{key(n)}": p.detach().clone() for n, p in peft.named_parameters() if p.requires_grad}
    return peft.double(), config, start


def key(name):
    name = name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector").replace(".modules_to_save.default", "")
    return name.replace(".default", "")


def run(i):
    torch.manual_seed(SEED * 1000 + i)
    g = torch.Generator().manual_seed(SEED * 1000 + i)
    base, full = rng.choice(bases.NAMES), rng.random() < 0.3
    model, config, start = prepared(base, full)
    optimizer, accumulate = random_optimizer(), rng.choice([1, 1, 2, 3])
    noise, smoothing = rng.choice([None, None, 5.0, 0.7]), rng.choice([0.0, 0.0, 0.1, 0.35])
    data = batches(g, 5, model.config.hidden_size if noise else None)
    steps = [[(k * accumulate + j) % 5 for j in range(accumulate)] for k in range(6)]
    total, schedule = len(steps), dict(type=rng.choice(["constant", "linear", "cosine"]), warmupSteps=rng.choice([0, 2]), totalSteps=len(steps))
    if schedule["type"] == "constant":
        schedule["warmupSteps"] = 0
    clip = rng.choice([0.0, 0.3, 1.0])
    params = {key(n): p for n, p in model.named_parameters() if p.requires_grad}
    torch_optimizer = make_optimizer(list(params.values()), optimizer)
    scheduler = get_scheduler(schedule["type"], torch_optimizer, schedule["warmupSteps"], total)
    expected = dict(loss=[], gradNorm=[], lr=[], targetTokens=[])
    current = []
    if noise:
        width = lambda x: noise / math.sqrt(x.shape[1] * x.shape[2])
        model.get_input_embeddings().register_forward_hook(lambda _, __, x: x + width(x) * current[0]["neftune_noise"])
    for numbers in steps:
        torch_optimizer.zero_grad()
        targets = sum(int((data[j]["labels"][:, 1:] != -100).sum()) for j in numbers)
        loss = 0.0
        for j in numbers:
            current[:] = [data[j]]
            part = loss_sum(model, data[j], smoothing) / max(targets, 1)
            part.backward()
            loss += float(part.detach())
        norm = torch.nn.utils.clip_grad_norm_(params.values(), clip or math.inf)
        for name, value in (("loss", loss), ("gradNorm", float(norm)), ("lr", scheduler.get_last_lr()[0]), ("targetTokens", targets)):
            expected[name].append(value)
        torch_optimizer.step()
        scheduler.step()
    # Signs and codes flip with float noise; among all weights of a model there are some whose gradient is no more than that.
    loose = optimizer["name"] in ("lion", "adamw_8bit")
    spec = dict(kind="sft_run", description=f"{base} at random", seed=SEED, base=f"../bases/{base}", fullFinetune=full, peftConfig=config,
                optimizer=optimizer, schedule=schedule, maxGradNorm=clip, gradientAccumulationSteps=accumulate, microBatches=5, steps=steps,
                gradientCheckpointing=rng.random() < 0.5, expected=expected, **FILES,
                tolerance=dict(loss=2e-3, gradNorm=2e-2, tensor=5e-2) if loose else dict(loss=1e-4, gradNorm=1e-3, tensor=2e-2 if full else 1e-3))
    if noise:
        spec["neftuneNoiseAlpha"] = noise
    if smoothing:
        spec["labelSmoothing"] = smoothing
    final = {f"final.{n}": p for n, p in params.items()}
    bases.write_case(f"{OUT}/r{SEED}_{i:03d}_{base}_{optimizer['name']}", spec, {**start, **numbered(data)}, final)


@torch.no_grad()
def evaluation(i):
    torch.manual_seed(SEED * 2000 + i)
    base = rng.choice(bases.NAMES)
    model, config, start = prepared(base, rng.random() < 0.5)
    data = batches(torch.Generator().manual_seed(SEED * 2000 + i), 3)
    rows = []
    for batch in data:
        p, targets = log_probs(model.eval(), batch)
        nll = -p.gather(1, targets[:, None])
        rows.append((len(targets), float(nll.sum()), int((p.argmax(-1) == targets).sum()), float(-(p.exp() * p).sum())))
    show = lambda n, loss, right, entropy: dict(targetTokens=n, meanTokenAccuracy=right / max(n, 1), entropy=entropy / max(n, 1))
    sums = [sum(column) for column in zip(*rows)]
    loss = sums[1] / sums[0]
    # Float32 knows the entropy of a prediction without doubt to 1e-7.
    least = min(r[3] / max(r[0], 1) for r in rows)
    expected = dict(batches=[dict(**show(*r), lossSum=r[1], meanLoss=r[1] / max(r[0], 1)) for r in rows], **show(*sums), loss=loss, perplexity=math.exp(loss))
    spec = dict(kind="eval", description=f"{base} at random", seed=SEED, base=f"../bases/{base}", microBatches=len(data), expected=expected,
                inputs=FILES["inputs"], tolerance=dict(loss=1e-4, perplexity=1e-3, meanTokenAccuracy=0.0, entropy=max(1e-4, 1e-6 / least)))
    if config:
        spec["peftConfig"] = config
    bases.write_case(f"{OUT}/e{SEED}_{i:03d}_{base}", spec, {**start, **numbered(data)})


def optimizer(i):
    g = torch.Generator().manual_seed(SEED * 3000 + i)
    o = random_optimizer()
    o.pop("min_8bit_size", None)
    eight = o["name"] == "adamw_8bit"
    shape = rng.choice([[64, 65], [17, 257], [4099]]) if eight else rng.choice([[1], [3], [127], [5, 13], [1, 9], [31, 1], [33, 65]])
    param = torch.randn(shape, generator=g)
    sizes = 10 ** torch.linspace(-3, 1, param.numel()).reshape(shape)
    p = torch.nn.Parameter(param.clone() if eight else param.double())
    if eight:
        o.update(blockSize=256, min_8bit_size=4096, min8bitSize=4096)
    torch_optimizer = make_optimizer([p], o)
    clip, steps = (0.0 if eight else rng.choice([0.0, 0.5])), 6
    inputs, expected, rates = dict(param=param), {}, [o["lr"] * rng.choice([0.0, 0.5, 1.0]) for _ in range(steps)]
    for k in range(steps):
        grad = torch.randn(shape, generator=g) * sizes * (torch.rand(shape, generator=g) > 0.1)
        inputs[f"grad.{k}"] = grad
        p.grad = grad.to(p.dtype)
        torch_optimizer.param_groups[0]["lr"] = rates[k]
        torch.nn.utils.clip_grad_norm_([p], clip or math.inf)
        torch_optimizer.step()
        if not eight or k == steps - 1:
            expected[f"param.{k}"] = p.detach().clone()
        if eight:
            s = torch_optimizer.state[p]
            for n, moment in (("1", s["m"]), ("2", s["v"])):
                expected[f"state{n}.{k}"] = moment.codes.reshape(shape).to(torch.uint8)
                expected[f"absmax{n}.{k}"] = moment.absmax
    tolerance = dict(codesMayDifferByOneShare=2e-3, param=1e-4, paramOutlierShare=2e-3, absmax=1e-5) if eight else dict(param=2e-6, state=2e-6)
    spec = dict(kind="optimizer", description=f"{o['name']} at random", seed=SEED, optimizer={**o, "lr": o["lr"]}, lr=rates, steps=steps, shape=shape,
                dtype="float32", maxGradNorm=clip, tolerance=tolerance, **FILES)
    bases.write_case(f"{OUT}/o{SEED}_{i:03d}_{o['name']}", spec, inputs, expected)


def op(i):
    """The loss from logits or through the head, with every addition to it, and the entropy."""
    g = torch.Generator().manual_seed(SEED * 4000 + i)
    name = rng.choice(["cross_entropy", "head_cross_entropy", "entropy"])
    rows, vocab, width = rng.choice([1, 3, 17, 65]), rng.choice([2, 3, 65, 127, 513]), rng.choice([1, 5, 33, 64])
    attrs = {}
    if name != "entropy":
        for k, values in dict(labelSmoothing=[0.05, 0.5], zLoss=[1e-4, 0.1], softcap=[1.5, 30.0], denominator=[7, 100]).items():
            if rng.random() < 0.4:
                attrs[k] = rng.choice(values)
    size = rng.choice([0.5, 3.0]) if "softcap" not in attrs else 0.3  # of what is capped hard, float32 knows no gradient
    made = lambda *shape: (torch.randn(*shape, generator=g) * size).double().requires_grad_()
    leaves = dict(hidden=made(rows, width), weight=made(vocab, width)) if name.startswith("head") else dict(logits=made(rows, vocab))
    logits = leaves["hidden"] @ leaves["weight"].T if name.startswith("head") else leaves["logits"]
    if name.startswith("head") and rng.random() < 0.4:
        attrs["logitScale"] = 0.7
        logits = logits * 0.7
    if "softcap" in attrs:
        logits = attrs["softcap"] * (logits / attrs["softcap"]).tanh()
    p = logits.log_softmax(-1)
    labels = torch.randint(0, vocab, (rows,), generator=g)
    labels[torch.rand(rows, generator=g) < 0.3] = -100
    inputs = {k: v.detach().clone() for k, v in leaves.items()}
    if name == "entropy":
        y = -(p.exp() * p).sum(-1)
    else:
        inputs["labels"] = labels.int()
        e = attrs.get("labelSmoothing", 0)
        each = (1 - e) * -p.gather(1, labels.clamp(min=0)[:, None])[:, 0] - e * p.mean(-1) + attrs.get("zLoss", 0) * logits.logsumexp(-1) ** 2
        y = (each * (labels != -100)).sum() / attrs.get("denominator", max(1, int((labels != -100).sum())))
    dy = torch.randn(rows, generator=g).double() if name == "entropy" else torch.ones(1).double()
    y = y.reshape(-1)
    y.backward(dy)
    inputs["dy"] = dy
    expected = dict(y=y, **{f"grad.{k}": v.grad for k, v in leaves.items()})
    spec = dict(kind="op", description=f"{name} {attrs}", seed=SEED, op=name, attrs=attrs, tolerance=dict(relative=1e-5), **FILES)
    bases.write_case(f"{OUT}/p{SEED}_{i:03d}_{name}", spec, inputs, expected)


for b in bases.NAMES:
    if {"run", "eval"} & set(KINDS) and not os.path.exists(f"{OUT}/bases/{b}/reference.safetensors"):
        bases.make_base(OUT, b)
for kind, body, count in (("run", run, N), ("eval", evaluation, 3 * N), ("optimizer", optimizer, 3 * N), ("op", op, 3 * N)):
    with float64():
        for i in range(count if kind in KINDS else 0):
            body(i)
