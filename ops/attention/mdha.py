"""Multi-DConv-head attention (Primer): queries, keys and values pass a short convolution.

    q, k, v <- b + sum_{r=0..kernel-1} w_r q_{t-r} (per channel),   then softmax attention

Causal with the flag `causal`; else the convolution is centred. Shapes: x [B, T, D] -> [B, T, D], K
= D / heads. Every channel of every head has its own kernel, which starts at 0.5 for lag 0 and 0.5 /
kernel for the others (1 for kernel=1); one reimplementation shares them over heads. Mask: padding
is zeroed before the convolution and left out of the keys. State: convolved keys and values of all
tokens so far, the last kernel - 1 raw projections, and the position. Cost: 4 D^2 + 3 D (kernel + 1)
parameters; 8 T D^2 + 4 T^2 D + 6 T D kernel FLOPs. Paper: So et al. 2021, "Primer",
arXiv:2109.08668, section 4.2 (MDHA).
"""

import torch
from torch import Tensor

from grammar.domain import Int
from ops.attention.engine import (
    ENGINE,
    ScoreAttention,
    attention_cost,
    attention_shape,
    head_params,
    split_heads,
)
from ops.attention.lags import HeadConv, conv_costs
from ops.kernels.positions import rotary
from ops.spec import Cost, Op, TensorType


class ConvolvedAttention(ScoreAttention):
    def __init__(
        self, dim: int, heads: int, causal: bool = False, pos: str = "none", kernel: int = 3
    ) -> None:
        super().__init__(dim, heads, causal, pos)
        self.conv = HeadConv(3 * dim, kernel, causal)

    def split(self, z: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split_heads(part, self.heads) for part in z.chunk(3, -1))
        if self.pos == "rope":
            q, k = rotary(q, place), rotary(k, place)
        return q, k, v

    def project(self, x: Tensor, kv: Tensor, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.split(self.conv(torch.cat([self.q(x), self.kv(kv)], dim=-1)), place)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x if mask is None else x * mask[..., None], mask)

    def init_state(  # type: ignore[override]  # more than the engine's own state
        self, batch: int, length: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        keys, values, place = super().init_state(batch, length)
        tail = keys.new_zeros(batch, self.conv.before, self.conv.weight.shape[0])
        return keys, values, tail, place

    def step(  # type: ignore[override]  # more than the engine's own state
        self, x: Tensor, state: tuple[Tensor, Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
        keys, values, tail, place = state
        z, tail = self.conv.step(torch.cat([self.q(x), self.kv(x)], dim=-1), tail)
        q, k, v = self.split(z, place)
        keys, values = keys.index_copy(2, place, k), values.index_copy(2, place, v)
        gap = place[:, None] - torch.arange(keys.shape[2], device=x.device)
        weights = self.weigh(self.scores(q, keys, gap), gap >= 0)
        return self.merge(weights @ values), (keys, values, tail, place + 1)


def _cost(x: TensorType, heads: int, causal: bool, pos: str, kernel: int) -> Cost:
    params, flops = conv_costs(x, kernel)
    cost = attention_cost(x, heads, causal, params=params, flops=flops)
    tail = causal * 12 * (kernel - 1) * x.dim
    return Cost(cost.params, cost.flops, cost.activation, cost.state + tail)


OP = Op(
    name="mdha",
    module=ConvolvedAttention,
    params={**head_params(), "kernel": Int(1, 16, default=3)},
    shape=lambda x, heads, causal, pos, kernel: attention_shape(x, heads, pos),
    cost=_cost,
    causal=lambda x, causal, **_: causal,
    mask="use",
    state=True,
    uses=(*ENGINE, HeadConv),
    paper="arXiv:2109.08668",
)
