"""Sinkhorn attention: each block attends to itself and to a soft sort of all blocks.

    R_uv = relu(mean q_u . mean k_v / sqrt(K)),   r = (log(R + 1e-6) + gumbel) / tau
    7 times: rows, then columns of r normalised in the log;   S = exp(r), doubly stochastic
    k'_u = sum_v S_uv k_v, v'_u likewise;   block u: softmax over [k'_u ; k_u]

Not causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads, blocks of `block` tokens (the last
padded). Gumbel noise in training only; `temperature` tau. Mask: padding is zeroed before the means
and sorts; a sorted row is left out where the tokens mixed into it are all padding. Cost: 4 D^2
parameters; 8 T D^2 + 8 T' b D + 2 n^2 D + 4 n T' D FLOPs, n = ceil(T / b), T' = n b. Paper: Tay et
al. 2020, "Sparse Sinkhorn Attention", arXiv:2002.11296, section 3; the sort net that compares block
means is that of a public port, whose non-causal path sorts keys in place of values (values are
sorted here).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float, Int
from ops.attention.engine import masked_softmax, split_heads
from ops.spec import Cost, Op, TensorType, need, need_divides


def sinkhorn_sort(scores: Tensor, steps: int) -> Tensor:
    """exp of scores [..., N, N] normalised over rows and columns in turn, in the log."""
    for _ in range(steps):
        scores = scores - torch.logsumexp(scores, -1, keepdim=True)
        scores = scores - torch.logsumexp(scores, -2, keepdim=True)
    return scores.exp()


class SinkhornAttention(nn.Module):
    def __init__(
        self, dim: int, heads: int, block: int, temperature: float = 0.75, steps: int = 7
    ) -> None:
        super().__init__()
        self.heads, self.block, self.steps = heads, block, steps
        self.temperature = temperature
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def sort(self, q: Tensor, k: Tensor, count: Tensor) -> Tensor:
        """S [B, heads, N, N] from blocks [B, heads, N, b, K]; `count` [B, 1, N, 1] of tokens."""
        q_mean, k_mean = (z.sum(3) / count.clamp_min(1) for z in (q, k))
        r = F.relu(q_mean @ k_mean.mT * q.shape[-1] ** -0.5)
        r = torch.log(r + 1e-6)
        if self.training:
            uniform = torch.rand_like(r)
            r = r - torch.log(-torch.log(uniform + 1e-6) + 1e-6)
        return sinkhorn_sort(r / self.temperature, self.steps)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        t = x.shape[1]
        pad = -t % self.block
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask
        real = torch.unflatten(F.pad(real, (0, pad)), 1, (-1, self.block))
        q, k, v = (
            torch.unflatten(F.pad(split_heads(z, self.heads), (0, 0, 0, pad)), 2, (-1, self.block))
            * real[:, None, ..., None]
            for z in self.qkv(x).chunk(3, -1)
        )
        order = self.sort(q, k, real.sum(-1)[:, None, :, None])
        k_sorted, v_sorted = ((order @ z.flatten(3)).view_as(z) for z in (k, v))
        mixed = real.any(1, keepdim=True).expand_as(real)
        seen = torch.cat([mixed, real], dim=-1)[:, None, :, None]
        scores = q @ torch.cat([k_sorted, k], dim=3).mT * q.shape[-1] ** -0.5
        y = masked_softmax(scores, seen) @ torch.cat([v_sorted, v], dim=3)
        out: Tensor = self.out(y.flatten(2, 3)[:, :, :t].transpose(1, 2).flatten(2))
        return out


def _shape(x: TensorType, heads: int, **_: object) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, block: int, **_: object) -> Cost:
    t, d = x.length, x.dim
    count = -(-t // block)
    padded = count * block
    flops = 8 * t * d * d + 8 * padded * block * d + 2 * count**2 * d + 4 * count * padded * d
    return Cost(4 * d * d, flops, 4 * (6 * padded * d + 4 * heads * padded * block))


OP = Op(
    name="sinkhorn_attn",
    module=SinkhornAttention,
    params={
        "heads": Int(1, 64),
        "block": Int(1, 4096, log=True, default=64),
        "temperature": Float(0.05, 10.0, log=True, default=0.75),
        "steps": Int(0, 64, default=7),
    },
    shape=_shape,
    cost=_cost,
    causal=False,
    mask="use",
    uses=(split_heads, masked_softmax, sinkhorn_sort),
    paper="arXiv:2002.11296",
)
