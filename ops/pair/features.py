"""Pair features: two vectors side by side, with their difference and their product.

    the letters of `kind`, in order:   u, v;   d = |u - v|;   m = u * v

`uvd` is [u; v; |u - v|], `uvmd` the order of distilled sentence embeddings, `dm` symmetric.
Shapes: two vec [B, D] -> vec [B, len(kind) D]; two seq [B, T, D] -> the same token by token.
No parameters, no matmul.
Papers: Conneau et al. 2017, arXiv:1705.02364, section 3.1; Barkan et al. 2019, arXiv:1908.05161.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from grammar.domain import Word
from ops.spec import Mismatch, Op, TensorType, need, no_cost

KINDS = ("uv", "uvd", "uvm", "uvdm", "uvmd", "dm", "d", "m")


class PairFeatures(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, u: Tensor, v: Tensor) -> Tensor:
        made = {"u": u, "v": v, "d": (u - v).abs(), "m": u * v}
        return torch.cat([made[letter] for letter in self.kind], -1)


def _shape(*xs: TensorType, kind: str) -> TensorType:
    if len(xs) != 2:
        raise Mismatch(f"needs two values, got {len(xs)}", hint="write fork(a, b) before it")
    first, second = xs
    need(first, "vec", "seq")
    if (first.kind, first.shape) != (second.kind, second.shape):
        raise Mismatch(f"{first} and {second} differ", hint="both values need one shape")
    padded = first.may_pad or second.may_pad
    return replace(first.with_dim(len(kind) * first.dim), may_pad=padded)


OP = Op(
    name="pair_features",
    module=PairFeatures,
    variadic=True,
    params={"kind": Word(KINDS, default="uvdm")},
    shape=_shape,
    init=lambda *_, kind: {"kind": kind},
    cost=no_cost,
    causal=True,
    paper="arXiv:1705.02364",
)
