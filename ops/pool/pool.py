"""Pooling of all places into one vector.

    mean, max, sum over the places;   first, last: the vector of that token
    cls: the vector at place 0, whatever it is;   sqrt: sum / sqrt(count)
    weighted: sum_t t x_t / sum_t t, t = 1.. counting the real tokens

Shapes: seq [B, T, D] -> vec [B, D]; image [B, C, H, W] -> vec [B, C] (mean, max, sum, sqrt).
Mask: padded tokens take no part; `last` is the last real token, `first` the first one. A sequence
of padding alone gives 0 (`first` and `last`: its first token). Not causal. No parameters.
Sources: Yixuan Tang & Yi Yang 2024, arXiv:2409.02727 (last, mean); Barkan et al. 2019,
arXiv:1908.05161 (sqrt); Muennighoff 2022, arXiv:2202.08904, eq. 2 (weighted).
"""

import torch
from torch import Tensor, nn

from grammar.domain import Word
from ops.spec import Mismatch, Op, TensorType, need, no_cost, vec

KINDS = ("mean", "max", "last", "first", "sum", "cls", "weighted", "sqrt")


class Pool(nn.Module):
    def __init__(self, kind: str = "mean") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() == 4:
            x = x.flatten(2).mT
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.kind == "cls":
            return x[:, 0]
        if self.kind in ("first", "last"):
            order = torch.arange(1, x.shape[1] + 1, device=x.device)
            rank = order if self.kind == "last" else order.flip(0)
            at = (mask * rank).argmax(1)
            return x[torch.arange(x.shape[0], device=x.device), at]
        if self.kind == "max":
            top = x.masked_fill(~mask[..., None], float("-inf")).amax(1)
            return torch.where(mask.any(1, keepdim=True), top, 0.0)
        share = mask.to(x.dtype)
        if self.kind == "weighted":
            share = share * share.cumsum(1)
        total, count = (x * share[..., None]).sum(1), share.sum(1, keepdim=True).clamp(min=1)
        if self.kind == "sum":
            return total
        return total / (count.sqrt() if self.kind == "sqrt" else count)


def _shape(x: TensorType, kind: str) -> TensorType:
    need(x, "seq", "image")
    if x.kind == "image" and kind in ("first", "last", "cls", "weighted"):
        raise Mismatch(
            f"kind={kind} needs an order of tokens, got {x}",
            param="kind",
            hint="kind may be mean, max, sum or sqrt here",
        )
    return vec(x.dim)


OP = Op(
    name="pool",
    module=Pool,
    params={"kind": Word(KINDS, default="mean")},
    shape=_shape,
    init=lambda x, kind: {"kind": kind},
    cost=no_cost,
    causal=False,
    mask="end",
)
