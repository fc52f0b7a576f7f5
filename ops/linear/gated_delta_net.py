"""Gated DeltaNet: the delta rule on a state that every head also forgets at a chosen rate.

    q, k, v = silu(conv(x W_q)), silu(conv(x W_k)), silu(conv(x W_v));  q, k over their lengths
    a_t = exp(-exp(A) softplus(x_t W_a + c)),   b_t = sigmoid(x_t W_b)
    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T
    o_t = S_t^T q_t / sqrt(K),   y = (w * RMS_V(o) * silu(x W_g)) W_o

Causal. Shapes: x [B, T, D] -> [B, T, D]; K = expand_k D / heads, V = expand_v D / heads; A, c
[heads], exp(A) from U(0, 16), softplus(c) log-uniform in [1e-3, 0.1]; length: sqrt(|k|^2 + 1e-6);
`negative` doubles b; one norm weight [V], eps 1e-5. Mask: the convolutions see zeros, b = 0 and
a = 1 at padding. State: S [B, heads, K, V] and the last kernel - 1 inputs of the convolutions.
Cost with P = expand_k D, E = expand_v D: 2 D (P + heads) + 3 D E + kernel (2 P + E) + 2 heads + V
parameters; FLOPs twice the matrices and filters per token + `delta_flops`.
Paper: Yang et al. 2024, arXiv:2412.06464, eq. 10 and section 3.4 (6 heads; widths 3/4 and 3/2 D).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Flag, Float, Int
from ops.kernels.delta import DELTA, chunked_delta, delta_flops, delta_step
from ops.kernels.mixing import (
    HEAD_OUTPUT,
    SHORT,
    ShortConv,
    blank,
    head_output,
    heads_first,
    unit_heads,
)
from ops.linear.common import head_width
from ops.spec import Cost, Op, TensorType, need


class GatedDeltaNet(nn.Module):
    def __init__(
        self, dim: int, heads: int, key: int, value: int, kernel: int, negative: bool
    ) -> None:
        super().__init__()
        self.heads, self.key, self.value = heads, key, value
        self.top = 2.0 if negative else 1.0
        self.qkv = nn.Linear(dim, heads * (2 * key + value), bias=False)
        self.gate = nn.Linear(dim, heads * value, bias=False)
        self.rates = nn.Linear(dim, 2 * heads, bias=False)
        self.conv = ShortConv(heads * (2 * key + value), kernel)
        self.decay = nn.Parameter(torch.empty(heads).uniform_(1e-3, 16).log())
        pace = (torch.rand(heads) * 4.605 - 6.908).exp()  # log-uniform in [1e-3, 0.1]
        self.pace = nn.Parameter(pace + (-torch.expm1(-pace)).log())
        self.norm = nn.Parameter(torch.ones(value))
        self.out = nn.Linear(heads * value, dim, bias=False)

    def parts(self, x: Tensor, seen: Tensor) -> tuple[Tensor, ...]:
        """q (scaled), k, v [B, heads, T, .], b and log a [B, heads, T]."""
        width = self.heads * self.key
        split = torch.split(seen, [width, width, self.heads * self.value], -1)
        q, k, v = (heads_first(z, self.heads) for z in split)
        q, k = (unit_heads(z, 1e-6 / self.key, self.key**-0.5) for z in (q, k))
        raw, beta = self.rates(x).chunk(2, -1)
        wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
        g = -self.decay.exp() * F.softplus(wide + self.pace)
        return q * self.key**-0.5, k, v, beta.sigmoid().mT * self.top, g.mT

    def merge(self, o: Tensor, x: Tensor) -> Tensor:
        y: Tensor = self.out(head_output(o, self.gate(x), self.norm, 1e-5))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, beta, g = self.parts(x, self.conv(blank(self.qkv(x), mask)))
        if mask is not None:
            beta, g = beta * mask[:, None], g * mask[:, None]
        return self.merge(chunked_delta(q, k, v, beta, g)[0], x)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(self.norm.dtype, torch.float32)
        state = self.norm.new_zeros(batch, self.heads, self.key, self.value, dtype=wide)
        return state, self.conv.tail(batch)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        seen, tail = self.conv.step(self.qkv(x), state[1])
        q, k, v, beta, g = (z[:, :, 0] for z in self.parts(x, seen))
        o, after = delta_step(q, k, v, beta, g, state[0])
        return self.merge(o[:, :, None], x), (after, tail)


def _widths(x: TensorType, heads: int, expand_k: float, expand_v: float) -> tuple[int, int]:
    return head_width(x, heads, expand_k, "expand_k"), head_width(x, heads, expand_v, "expand_v")


def _shape(x: TensorType, heads: int, expand_k: float, expand_v: float, **_: Any) -> TensorType:
    need(x, "seq")
    _widths(x, heads, expand_k, expand_v)
    return x


def _init(
    x: TensorType, heads: int, expand_k: float, expand_v: float, kernel: int, negative: bool
) -> dict[str, Any]:
    key, value = _widths(x, heads, expand_k, expand_v)
    sizes = {"dim": x.dim, "heads": heads, "key": key, "value": value}
    return {**sizes, "kernel": kernel, "negative": negative}


def _cost(
    x: TensorType, heads: int, expand_k: float, expand_v: float, kernel: int, negative: bool
) -> Cost:
    t, d = x.length, x.dim
    key, value = _widths(x, heads, expand_k, expand_v)
    p, e = heads * key, heads * value
    weights = 2 * d * (p + heads) + 3 * d * e + kernel * (2 * p + e)
    flops = 2 * t * weights + delta_flops(t, heads, key, value)
    state = 4 * p * value + 4 * (kernel - 1) * (2 * p + e)
    return Cost(weights + 2 * heads + value, flops, 4 * t * (16 * p + 12 * e), state)


OP = Op(
    name="gated_delta_net",
    module=GatedDeltaNet,
    params={
        "heads": Int(1, 64, default=6),
        "expand_k": Float(0.125, 8.0, default=0.75),
        "expand_v": Float(0.125, 8.0, default=1.5),
        "kernel": Int(1, 16, default=4),
        "negative": Flag(),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(heads_first, *HEAD_OUTPUT, blank, *SHORT, ShortConv, *DELTA),
    paper="arXiv:2412.06464",
)
