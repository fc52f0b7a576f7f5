"""LAMA: multi-head attention pooling with low-rank bilinear scores against one context vector.

    s_it = sum_r (p_ir . c) (q_ir . x_t),   a = act(s),   a_t <- a_t / |a_t| over the heads (norm)
    A = softmax_t(a / temperature),   y = [sum_t A_1t x_t; ...; sum_t A_mt x_t]   (W_o y with `dim`)

c: the mean of the real tokens, the last one, or a `learned` vector. One head with norm would have
the weights of two levels only, a = +-1, and is refused.
Not causal: a sequence becomes one vector. Shapes: x [B, T, D] -> [B, heads D] or [B, dim].
P, Q start uniform within 1 / sqrt(D). Lengths below 1e-6 count as 1e-6, so that s = 0 has a
gradient. Mask: padded tokens take part neither in c nor in A; padding alone gives 0.
Cost, m = heads, r = rank: 2 D m r parameters (+ D learned, + (m D + 1) dim); 2 (T + 1) D m r +
2 T m D FLOPs (+ 2 m D dim); a learned c is multiplied once for the batch and not counted.
Paper: Mehta et al. 2019, "Low Rank Factorization for Compact Multi-Head Self-Attention",
arXiv:1912.00835, section 3.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from grammar.domain import Flag, Float, Int, Word
from ops.pool.attn import pool_weights
from ops.spec import Cost, Mismatch, Op, TensorType, need, vec


class LamaPool(nn.Module):
    def __init__(
        self,
        dim: int,
        heads: int,
        rank: int = 1,
        context: str = "mean",
        act: str = "tanh",
        norm: bool = True,
        temperature: float = 1.0,
        out: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.rank, self.kind = heads, rank, context
        self.bent, self.norm, self.temperature = act == "tanh", norm, temperature
        bound = 1 / math.sqrt(dim)
        self.p = nn.Parameter(torch.empty(heads * rank, dim).uniform_(-bound, bound))
        self.q = nn.Parameter(torch.empty(heads * rank, dim).uniform_(-bound, bound))
        self.c = nn.Parameter(torch.randn(dim)) if context == "learned" else None
        self.out = nn.Linear(heads * dim, out) if out is not None else None

    def context(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """P c, [B or 1, heads rank]."""
        if self.c is not None:
            return torch.mv(self.p, self.c)[None]
        if mask is None:
            c = x.mean(1) if self.kind == "mean" else x[:, -1]
        elif self.kind == "mean":
            c = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        else:
            order = torch.arange(1, x.shape[1] + 1, device=x.device)
            c = x[torch.arange(x.shape[0], device=x.device), (mask * order).argmax(1)]
        return c @ self.p.mT

    def logits(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, heads, T]."""
        s = x @ self.q.mT * self.context(x, mask)[:, None]
        a: Tensor = torch.unflatten(s, -1, (self.heads, self.rank)).sum(-1)
        a = a.tanh() if self.bent else a
        if self.norm:
            a = a / a.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
        return a.mT

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        weights = pool_weights(self.logits(x, mask) / self.temperature, mask)
        y = (weights @ x).flatten(1)
        return y if self.out is None else self.out(y)


def _shape(x: TensorType, heads: int, norm: bool, dim: int | None, **_: Any) -> TensorType:
    need(x, "seq")
    if heads == 1 and norm:
        raise Mismatch(
            "heads=1 normalised over heads has the weights +1 and -1 alone",
            param="heads",
            hint="say norm=false, or take more heads",
        )
    return vec(heads * x.dim if dim is None else dim)


def _init(x: TensorType, dim: int | None, **params: Any) -> dict[str, Any]:
    return {"dim": x.dim, "out": dim, **params}


def _cost(x: TensorType, heads: int, rank: int, context: str, dim: int | None, **_: Any) -> Cost:
    t, d, wide = x.length, x.dim, heads * rank
    learned = context == "learned"
    out, flops = 0 if dim is None else (heads * d + 1) * dim, 2 * d * wide * (t + 1 - learned)
    flops += 2 * t * heads * d + 2 * heads * d * (dim or 0)
    return Cost(2 * d * wide + learned * d + out, flops, 4 * t * (wide + 3 * heads))


OP = Op(
    name="lama_pool",
    module=LamaPool,
    params={
        "heads": Int(1, 64, log=True, default=8),
        "rank": Int(1, 1024, log=True, default=1),
        "context": Word(("mean", "last", "learned"), default="mean"),
        "act": Word(("tanh", "none"), default="tanh"),
        "norm": Flag(default=True),
        "temperature": Float(1e-3, 1e3, log=True, default=1.0),
        "dim": Int(1, 65536, log=True, default=None, none=True),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=False,
    mask="end",
    uses=(pool_weights,),
    paper="arXiv:1912.00835",
)
