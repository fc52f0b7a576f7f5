"""Gated linear attention: every key channel forgets at its own rate, chosen by the token.

    g_t = logsigmoid(x_t W_1 W_2 + b) / 16,   S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T
    o_t = S_t^T q_t / sqrt(K),   y = (w * RMS_V(o) * silu(x W_g)) W_o

Causal. Shapes: x [B, T, D] -> [B, T, D]; K = expand_k D / heads, V = expand_v D / heads, low rank
16, norm over each head with one weight [V]. Mask: k = 0 and g = 0 at padding.
State: S [B, heads, K, V]. Cost with P = expand_k D, E = expand_v D: parameters 2 D P + 3 D E +
16 (D + P) + P + V; FLOPs twice the weights of the matrices per token and `diagonal_flops`.
Paper: Yang et al. 2023, arXiv:2312.06635, section 4 (eps 1e-5 as in the authors' code).
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Float, Int
from ops.kernels.diagonal import DIAGONAL, chunked_diagonal, diagonal_flops, diagonal_step
from ops.kernels.mixing import HEAD_OUTPUT, head_output, heads_first
from ops.linear.common import head_width
from ops.spec import Cost, Op, TensorType, need


class GatedLinearAttention(nn.Module):
    def __init__(self, dim: int, heads: int, key: int, value: int) -> None:
        super().__init__()
        self.heads, self.key, self.value, self.eps = heads, key, value, 1e-5
        self.qk = nn.Linear(dim, 2 * heads * key, bias=False)
        self.vg = nn.Linear(dim, 2 * heads * value, bias=False)
        self.low = nn.Linear(dim, 16, bias=False)
        self.decay = nn.Linear(16, heads * key)
        self.norm = nn.Parameter(torch.ones(value))
        self.out = nn.Linear(heads * value, dim, bias=False)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """q (scaled), k, v, g [B, heads, T, .] and the output gate [B, T, E]."""
        q, k = (heads_first(z, self.heads) for z in self.qk(x).chunk(2, -1))
        v, gate = self.vg(x).chunk(2, -1)
        decay = self.decay(self.low(x))
        wide = decay.to(torch.promote_types(decay.dtype, torch.float32))
        g = heads_first(F.logsigmoid(wide) / 16, self.heads)
        return q * self.key**-0.5, k, heads_first(v, self.heads), g, gate

    def merge(self, o: Tensor, gate: Tensor) -> Tensor:
        y: Tensor = self.out(head_output(o, gate, self.norm, self.eps))
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v, g, gate = self.project(x)
        if mask is not None:
            k, g = k * mask[:, None, :, None], g * mask[:, None, :, None]
        return self.merge(chunked_diagonal(q, k, v, g)[0], gate)

    def init_state(self, batch: int, length: int) -> Tensor:
        wide = torch.promote_types(self.norm.dtype, torch.float32)
        return self.norm.new_zeros(batch, self.heads, self.key, self.value, dtype=wide)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        *parts, gate = self.project(x)
        q, k, v, g = (z[:, :, 0] for z in parts)
        o, state = diagonal_step(q, k, v, g, state)
        return self.merge(o[:, :, None], gate), state


def _shape(x: TensorType, heads: int, expand_k: float, expand_v: float) -> TensorType:
    need(x, "seq")
    head_width(x, heads, expand_k, "expand_k")
    head_width(x, heads, expand_v, "expand_v")
    return x


def _init(x: TensorType, heads: int, expand_k: float, expand_v: float) -> dict[str, Any]:
    key, value = (
        head_width(x, heads, expand_k, "expand_k"),
        head_width(x, heads, expand_v, "expand_v"),
    )
    return {"dim": x.dim, "heads": heads, "key": key, "value": value}


def _cost(x: TensorType, heads: int, expand_k: float, expand_v: float) -> Cost:
    d, t = x.dim, x.length
    key, value = (
        head_width(x, heads, expand_k, "expand_k"),
        head_width(x, heads, expand_v, "expand_v"),
    )
    p, e = heads * key, heads * value
    weights = 2 * d * p + 3 * d * e + 16 * (d + p)
    flops = 2 * t * weights + diagonal_flops(t, heads, key, value)
    return Cost(weights + p + value, flops, 4 * t * (40 * p + 6 * e), 4 * p * value)


OP = Op(
    name="gla",
    module=GatedLinearAttention,
    params={
        "heads": Int(1, 64, default=4),
        "expand_k": Float(0.125, 8.0, default=0.5),
        "expand_v": Float(0.125, 8.0, default=1.0),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(heads_first, *HEAD_OUTPUT, *DIAGONAL),
    paper="arXiv:2312.06635",
)
