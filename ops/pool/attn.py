"""Attention pooling: a small MLP scores the tokens, each hop takes a weighted mean of them.

    A = softmax_t(V tanh(W x_t + b)),   y = [sum_t A_1t x_t; ...; sum_t A_ht x_t]

Not causal: a sequence becomes one vector. Shapes: x [B, T, D] -> [B, hops D]; W [hidden, D],
V [hops, hidden]; hidden = D unless given. One hop with b is the word attention of hierarchical
attention networks (V is their context vector u_w).
Mask: padded tokens take no part; a sequence of padding alone gives 0.
Cost: hidden (D + hops + 1) parameters (hidden less without b);
2 T (hidden D + hidden hops + hops D) FLOPs.
Papers: Yang et al. 2016, "Hierarchical Attention Networks", eq. 5-7; Lin et al. 2017,
arXiv:1703.03130, eq. 5-7 (several hops, no b).
"""

from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Flag, Int
from ops.spec import Cost, Op, TensorType, need, vec


def pool_weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax over the last axis [B, N, T] where `mask` [B, T] is True, in fp32; else 0."""
    wide = torch.promote_types(scores.dtype, torch.float32)
    if mask is None:
        return scores.to(wide).softmax(-1).to(scores.dtype)
    low = scores.to(wide).masked_fill(~mask[:, None], torch.finfo(wide).min)
    return (low.softmax(-1) * mask[:, None]).to(scores.dtype)


class AttentionPool(nn.Module):
    def __init__(self, dim: int, hidden: int, hops: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.enter = nn.Linear(dim, hidden, bias=bias)
        self.query = nn.Linear(hidden, hops, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.query(torch.tanh(self.enter(x))).mT
        return (pool_weights(scores, mask) @ x).flatten(1)


def _hidden(x: TensorType, hidden: int | None) -> int:
    return x.dim if hidden is None else hidden


def _shape(x: TensorType, hidden: int | None, hops: int, bias: bool) -> TensorType:
    need(x, "seq")
    return vec(hops * x.dim)


def _init(x: TensorType, hidden: int | None, hops: int, bias: bool) -> dict[str, Any]:
    return {"dim": x.dim, "hidden": _hidden(x, hidden), "hops": hops, "bias": bias}


def _cost(x: TensorType, hidden: int | None, hops: int, bias: bool) -> Cost:
    t, d, h = x.length, x.dim, _hidden(x, hidden)
    return Cost(h * (d + hops + bias), 2 * t * (h * d + h * hops + hops * d), 8 * t * (h + hops))


OP = Op(
    name="attn_pool",
    module=AttentionPool,
    params={
        "hidden": Int(1, 65536, log=True, default=None, none=True),
        "hops": Int(1, 64, log=True, default=1),
        "bias": Flag(default=True),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
    mask="end",
    uses=(pool_weights,),
    paper="arXiv:1703.03130",
)
