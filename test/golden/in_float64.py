"""Truth for the generators of cases: what torch's libraries compute, in float64 throughout."""

import contextlib

import torch


@contextlib.contextmanager
def float64():
    """The libraries compute norms, softmax, ropes, losses and SVD in float32 whatever a model is; inside they do so in float64."""
    to, as_float, softmax = torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax

    def wide(x, *args, **named):
        narrow = any(a is torch.float32 for a in (*args, named.get("dtype")))
        return x if narrow and x.dtype == torch.float64 else to(x, *args, **named)

    torch.Tensor.to = wide
    torch.Tensor.float = lambda x: x.double()
    torch.nn.functional.softmax = lambda x, dim=None, dtype=None, **named: softmax(x, dim=dim, **named)
    try:
        yield
    finally:
        torch.Tensor.to, torch.Tensor.float, torch.nn.functional.softmax = to, as_float, softmax
