"""Aaren, attention as an RNN: every prefix is pooled by softmax with one learned query a layer.

    q = W_q e + b_q (e learned, [D]),  s_t = q_h . k_t / sqrt(K)
    y_t = W_o concat_h  sum_{i<=t} e^{s_i} v_i / sum_{i<=t} e^{s_i}

Causal. Shapes: x [B, T, D] -> [B, T, D], K = D / heads; projections have biases, as published.
Mask: s = -inf at padding. State: (m, u, w) of the prefix, [B, heads], [B, heads], [B, heads, K].
Cost: 4 D^2 + 5 D parameters (4 D^2 + D without bias); 6 T D^2 + 2 T' C D FLOPs with chunks of
C = min(64, T), T' = T rounded up to C. The query is one vector for the batch and is not counted.
Paper: Feng et al. 2024, arXiv:2405.13956, section 3.
"""

import math

import torch
from torch import Tensor, nn

from grammar.domain import Flag, Int
from ops.kernels.scan import PREFIX_SOFTMAX, prefix_softmax, softmax_union
from ops.spec import Cost, Op, TensorType, need, need_divides


class Aaren(nn.Module):
    def __init__(self, dim: int, heads: int, bias: bool = True) -> None:
        super().__init__()
        self.heads = heads
        self.token = nn.Parameter(0.02 * torch.randn(dim))
        self.query = nn.Linear(dim, dim, bias=bias)
        self.kv = nn.Linear(dim, 2 * dim, bias=bias)
        self.out = nn.Linear(dim, dim, bias=bias)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, heads, T] in fp32 and values [B, heads, T, K]."""
        k, v = self.kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = torch.mv(self.query.weight, self.token)
        if self.query.bias is not None:
            q = q + self.query.bias
        q = q.view(self.heads, 1, -1)
        wide = torch.promote_types(k.dtype, torch.float32)
        return (q.to(wide) * k.to(wide)).sum(-1) / math.sqrt(k.shape[-1]), v

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        s, v = self.project(x)
        if mask is not None:
            s = s.masked_fill(~mask[:, None], float("-inf"))
        y: Tensor = self.out(prefix_softmax(s, v).transpose(1, 2).flatten(2))
        return y

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        weight = self.out.weight
        wide = torch.promote_types(weight.dtype, torch.float32)
        zeros = weight.new_zeros(batch, self.heads, weight.shape[0] // self.heads, dtype=wide)
        return zeros[..., 0] + torch.finfo(wide).min, zeros[..., 0].clone(), zeros

    def step(
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        s, v = self.project(x)
        leaf = (s[:, :, 0], torch.ones_like(s[:, :, 0]), v[:, :, 0].to(s.dtype))
        state = softmax_union(state, leaf)
        y = (state[2] / state[1][..., None]).to(x.dtype)
        return self.out(y.flatten(1)[:, None]), state


def _shape(x: TensorType, heads: int, bias: bool) -> TensorType:
    need(x, "seq")
    need_divides(heads, x.dim)
    return x


def _cost(x: TensorType, heads: int, bias: bool) -> Cost:
    t, d = x.length, x.dim
    size = min(64, t)
    padded = -(-t // size) * size
    params = 4 * d * d + d + bias * 4 * d
    flops = 6 * t * d * d + 2 * padded * size * d
    kept = 4 * (3 * t * d + 2 * padded * size * heads)
    return Cost(params, flops, kept, 4 * (d + 2 * heads))


OP = Op(
    name="aaren",
    module=Aaren,
    params={"heads": Int(1, 64), "bias": Flag(default=True)},
    shape=_shape,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=PREFIX_SOFTMAX,
    paper="arXiv:2405.13956",
)
