"""Trainable pooling: latent vectors read the sequence by cross-attention, and their mean is y.

    Z' = Z + W_o concat_h softmax(LN(Z) W_q (LN(x) W_k)^T / sqrt(K)) LN(x) W_v
    y = mean_r (Z' + FF(LN(Z'))) / |.|,   FF(u) = (gelu(u W_1 + b_1) * (u W_2 + b_2)) W_3 + b_3

Z [latents, D] learned; W_1, W_2 of width 4 D; K = D / heads unless given. `over`: all tokens, or
the `last` one alone (then the weights are 1 and every latent adds the same W_o W_v LN(x)). `norm`:
whether y is scaled to length 1.
Not causal: a sequence becomes one vector. Shapes: x [B, T, D] -> [B, D].
Mask: padded tokens take no part; padding alone: every token counts, or the first with `last`.
Cost, N tokens read, L latents, W = heads K: 4 D W + 12 D^2 + 15 D + L D parameters; per sample
4 N D W + 4 L N W + 2 L D W + 24 L D^2 FLOPs; LN(Z) W_q is made once for the batch, 2 L D W, and
not counted.
Paper: Tang & Yang 2024, "Pooling and Attention", arXiv:2409.02727, section 3.2 (there 768 latents
of 32 heads with K = 2048; token padding is not masked in their code, here it is).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Domain, Flag, Int, Word
from ops.spec import Cost, Op, TensorType, need, need_divides, vec


class CrossPool(nn.Module):
    """The block that reads a set of vectors [B, N, D] into one, [B, D]."""

    def __init__(self, dim: int, heads: int, width: int, latents: int, norm: bool) -> None:
        super().__init__()
        self.heads, self.norm = heads, norm
        self.latents = nn.Parameter(torch.randn(latents, dim))
        self.norm_latents, self.norm_x = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query = nn.Linear(dim, heads * width, bias=False)
        self.kv = nn.Linear(dim, 2 * heads * width, bias=False)
        self.out = nn.Linear(heads * width, dim, bias=False)
        self.norm_mixed = nn.LayerNorm(dim)
        self.gate_up = nn.Linear(dim, 8 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        # one query row for the batch, repeated without a copy
        q = self.query(self.norm_latents(self.latents)).unflatten(-1, (self.heads, -1))
        q = q.transpose(0, 1).expand(x.shape[0], -1, -1, -1)
        k, v = self.kv(self.norm_x(x)).unflatten(-1, (2, self.heads, -1)).unbind(2)
        seen = None
        if mask is not None:
            seen = (mask | ~mask.any(1, keepdim=True))[:, None, None]
        y = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2), attn_mask=seen)
        z = self.latents + self.out(y.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm_mixed(z)).chunk(2, -1)
        pooled = (z + self.down(F.gelu(gate) * up)).mean(1)
        return F.normalize(pooled, dim=-1) if self.norm else pooled


def last_token(x: Tensor, mask: Tensor | None) -> Tensor:
    """The last real token of [B, T, D], as [B, D]."""
    if mask is None:
        return x[:, -1]
    order = torch.arange(1, x.shape[1] + 1, device=x.device)
    return x[torch.arange(x.shape[0], device=x.device), (mask * order).argmax(1)]


class TrainablePool(CrossPool):
    def __init__(
        self, dim: int, heads: int, width: int, latents: int, norm: bool, over: str = "all"
    ) -> None:
        super().__init__(dim, heads, width, latents, norm)
        self.last = over == "last"

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.last:
            x, mask = last_token(x, mask)[:, None], None
        return super().forward(x, mask)


def pool_init(
    x: TensorType, heads: int, head_dim: int | None, latents: int, norm: bool, **_: Any
) -> dict[str, Any]:
    """The constructor arguments of `CrossPool`. Raises: Mismatch unless heads divide the width."""
    need(x, "seq")
    if head_dim is None:
        need_divides(heads, x.dim)
    width = x.dim // heads if head_dim is None else head_dim
    return {"dim": x.dim, "heads": heads, "width": width, "latents": latents, "norm": norm}


def pool_cost(x: TensorType, count: int, **params: Any) -> Cost:
    """The cost of the block over `count` vectors."""
    made = pool_init(x, **params)
    d, latents, wide = x.dim, made["latents"], made["heads"] * made["width"]
    flops = 4 * count * d * wide + 4 * latents * count * wide
    flops += 2 * latents * d * wide + 24 * latents * d * d
    kept = 4 * (2 * count * wide + latents * (2 * wide + 14 * d))
    return Cost(4 * d * wide + 12 * d * d + 15 * d + latents * d, flops, kept)


POOL_PARAMS: dict[str, Domain] = {
    "heads": Int(1, 64, log=True, default=8),
    "head_dim": Int(1, 65536, log=True, default=None, none=True),
    "latents": Int(1, 65536, log=True, default=768),
    "norm": Flag(default=True),
}


def _shape(x: TensorType, over: str, **params: Any) -> TensorType:
    pool_init(x, **params)
    return vec(x.dim)


def _init(x: TensorType, over: str, **params: Any) -> dict[str, Any]:
    return pool_init(x, **params) | {"over": over}


def _cost(x: TensorType, over: str, **params: Any) -> Cost:
    return pool_cost(x, 1 if over == "last" else x.length, **params)


OP = Op(
    name="trainable_pool",
    module=TrainablePool,
    params={**POOL_PARAMS, "over": Word(("all", "last"), default="all")},
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
    mask="end",
    uses=(CrossPool, last_token),
    paper="arXiv:2409.02727",
)
