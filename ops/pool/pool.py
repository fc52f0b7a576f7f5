"""Pooling of all places into one vector.

    mean, max, sum over the places;   first, last: the vector of that token

Shapes: seq [B, T, D] -> vec [B, D]; image [B, C, H, W] -> vec [B, C] (mean, max, sum).
Mask: padded tokens take no part; `last` is the last real token, `first` the first one. A sequence
of padding alone gives 0 (`first` and `last`: its first token). No parameters, no matmul.
"""

import torch
from torch import Tensor, nn

from grammar.domain import Word
from ops.spec import Mismatch, Op, TensorType, need, no_cost, vec


class Pool(nn.Module):
    def __init__(self, kind: str = "mean") -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if x.dim() == 4:
            x = x.flatten(2).mT
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        if self.kind in ("first", "last"):
            order = torch.arange(1, x.shape[1] + 1, device=x.device)
            rank = order if self.kind == "last" else order.flip(0)
            at = (mask * rank).argmax(1)
            return x[torch.arange(x.shape[0], device=x.device), at]
        if self.kind == "max":
            top = x.masked_fill(~mask[..., None], float("-inf")).amax(1)
            return torch.where(mask.any(1, keepdim=True), top, 0.0)
        total = (x * mask[..., None]).sum(1)
        return total if self.kind == "sum" else total / mask.sum(1, keepdim=True).clamp(min=1)


def _shape(x: TensorType, kind: str) -> TensorType:
    need(x, "seq", "image")
    if x.kind == "image" and kind in ("first", "last"):
        raise Mismatch(
            f"kind={kind} needs an order of tokens, got {x}",
            param="kind",
            hint="kind may be mean, max or sum here",
        )
    return vec(x.dim)


OP = Op(
    name="pool",
    module=Pool,
    params={"kind": Word(("mean", "max", "last", "first", "sum"), default="mean")},
    shape=_shape,
    init=lambda x, kind: {"kind": kind},
    cost=no_cost,
    causal=False,
    mask="end",
)
