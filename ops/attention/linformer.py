"""Linformer: keys and values are projected along the sequence to a fixed number of rows.

    y = W_o concat_h softmax(q (E k)^T / sqrt(K)) (F v),   E, F [rank, N]

Not causal: every row of E k mixes all tokens. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; T is
at most the length N at building; `shared` takes F = E. Mask: keys and values at padding are 0
before the projection. Cost: 4 D^2 + 2 N rank (shared: N rank) parameters; 8 T D^2 + 8 T rank D
FLOPs. Paper: Wang et al. 2020, "Linformer", arXiv:2006.04768, eq. 7. E, F serve all heads.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Int
from ops.attention.engine import split_heads
from ops.spec import Cost, Op, TensorType, need, need_divides


class Linformer(nn.Module):
    def __init__(self, dim: int, heads: int, rank: int, shared: bool, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        count = 1 if shared else 2
        self.squeeze = nn.Parameter(torch.randn(count, rank, length) * length**-0.5)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = (split_heads(z, self.heads) for z in self.qkv(x).chunk(3, -1))
        if mask is not None:
            k, v = k * mask[:, None, :, None], v * mask[:, None, :, None]
        rows = self.squeeze[:, :, : x.shape[1]]
        y = F.scaled_dot_product_attention(q, rows[0] @ k, rows[-1] @ v)
        out: Tensor = self.out(y.transpose(1, 2).flatten(2))
        return out


def _init(x: TensorType, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, "length": x.length, **params}


def _shape(x: TensorType, heads: int, rank: int, shared: bool) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, rank: int, shared: bool) -> Cost:
    t, d = x.length, x.dim
    params = 4 * d * d + (1 if shared else 2) * t * rank
    return Cost(params, 8 * t * d * d + 8 * t * rank * d, 16 * t * d + 8 * heads * t * rank)


OP = Op(
    name="linformer",
    module=Linformer,
    params={"heads": Int(1, 64), "rank": Int(1, 4096, log=True, default=256), "shared": Flag()},
    init=_init,
    shape=_shape,
    cost=_cost,
    causal=False,
    fixed_length=True,
    mask="use",
    uses=(split_heads,),
    paper="arXiv:2006.04768",
)
