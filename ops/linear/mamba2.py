"""Mamba-2 (state space duality): a recurrence whose decay and input share the step size.

    [z, x, B, C, d] = u W_in,   [x, B, C] = silu(conv([x, B, C]) + bias)
    delta_t = softplus(d_t + dt_bias),   a_t = exp(-e^{A_log} delta_t)          one a head
    S_t = a_t S_{t-1} + delta_t B_t x_t^T,   o_t = S_t^T C_t + skip x_t
    y = (w * RMS_E(o * silu(z))) W_out

Causal. Shapes: u [B, T, D] -> [B, T, D]; E = expand D, heads H = E / head_dim, N = `state`; B and C
[B, T, N] are shared by all heads (one group); the convolution is causal and depthwise over E + 2 N
channels. e^{A_log} starts uniform in [1, 16], delta log-uniform in [.001, .1], skip at 1; norm eps
1e-5. Mask: zeros into the convolution and delta = 0 at padding.
State: S [B, H, N, head_dim] and the last kernel - 1 inputs of the convolution.
Cost with F = E + 2 N: D (E + F + H) + (kernel + 1) F + 3 H + E + E D parameters; FLOPs twice the
weights of matrices and convolution a token and `chunked_flops` with shared scores.
Paper: Dao & Gu 2024, arXiv:2405.21060, section 7.1 and listing 1.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grammar.domain import Int
from ops.kernels.chunked import CHUNKED, chunked_decay, chunked_flops, decay_step
from ops.kernels.mixing import MIXING, ShortConv, blank, head_output, heads_first
from ops.spec import Cost, Op, TensorType, need, need_divides


class Mamba2(nn.Module):
    def __init__(
        self, dim: int, state: int = 128, head_dim: int = 64, expand: int = 2, kernel: int = 4
    ) -> None:
        super().__init__()
        self.inner, self.state, self.eps = expand * dim, state, 1e-5
        self.heads = self.inner // head_dim
        self.channels = self.inner + 2 * state
        self.into = nn.Linear(dim, self.inner + self.channels + self.heads, bias=False)
        self.conv = ShortConv(self.channels, kernel, bias=True)
        self.rate_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
        start = torch.empty(self.heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(torch.log(torch.expm1(start)))
        self.skip = nn.Parameter(torch.ones(self.heads))
        self.norm = nn.Parameter(torch.ones(self.inner))
        self.out = nn.Linear(self.inner, dim, bias=False)

    def project(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gate z [B, T, E], what the convolution reads [B, T, F] and delta [B, H, T]."""
        sizes = [self.inner, self.channels, self.heads]
        z, seen, d = torch.split_with_sizes(self.into(u), sizes, dim=-1)
        wide = torch.promote_types(d.dtype, torch.float32)
        return z, seen, F.softplus(d.to(wide) + self.dt_bias).mT

    def parts(self, seen: Tensor, delta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C and B [B, 1, T, N], x [B, H, T, V] and log a [B, H, T]."""
        sizes = [self.inner, self.state, self.state]
        x, b, c = torch.split_with_sizes(seen, sizes, dim=-1)
        rate = -self.rate_log.to(delta.dtype).exp()[:, None] * delta
        return c[:, None], b[:, None], heads_first(x, self.heads), rate

    def merge(self, o: Tensor, x: Tensor, z: Tensor) -> Tensor:
        extra = (x, self.skip)
        normed = head_output(o, z, self.norm, self.eps, early=True, whole=True, extra=extra)
        y: Tensor = self.out(normed)
        return y

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        z, seen, delta = self.project(x)
        if mask is not None:
            delta = delta * mask[:, None]
        c, b, value, rate = self.parts(self.conv(blank(seen, mask)), delta)
        o, _ = chunked_decay(c, b, value * delta[..., None], rate)
        return self.merge(o.to(value.dtype), value, z)

    def init_state(self, batch: int, length: int) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(self.norm.dtype, torch.float32)
        width = self.inner // self.heads
        state = self.norm.new_zeros(batch, self.heads, self.state, width, dtype=wide)
        return state, self.conv.tail(batch)

    def step(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        z, seen, delta = self.project(x)
        seen, tail = self.conv.step(seen, state[1])
        c, b, value, rate = (p[:, :, 0] for p in self.parts(seen, delta))
        o, after = decay_step(c, b, value * delta, rate, state[0])
        value = value[:, :, None]
        return self.merge(o[:, :, None].to(value.dtype), value, z), (after, tail)


def _shape(x: TensorType, state: int, head_dim: int, expand: int, kernel: int) -> TensorType:
    need(x, "seq")
    need_divides(head_dim, expand * x.dim, param="head_dim")
    return x


def _init(x: TensorType, **params: int) -> dict[str, Any]:
    return {"dim": x.dim, **params}


def _cost(x: TensorType, state: int, head_dim: int, expand: int, kernel: int) -> Cost:
    t, d, inner = x.length, x.dim, expand * x.dim
    heads, channels = inner // head_dim, inner + 2 * state
    weights = d * (inner + channels + heads) + kernel * channels + inner * d
    flops = 2 * t * weights + chunked_flops(t, heads, state, head_dim, shared=True)
    kept = 4 * t * (3 * channels + 6 * inner + 4 * heads)
    carried = 4 * (inner * state + (kernel - 1) * channels)
    return Cost(weights + channels + 3 * heads + inner, flops, kept, carried)


OP = Op(
    name="mamba2",
    module=Mamba2,
    params={
        "state": Int(1, 1024, log=True, default=128),
        "head_dim": Int(1, 1024, log=True, default=64),
        "expand": Int(1, 8, default=2),
        "kernel": Int(1, 64, default=4),
    },
    shape=_shape,
    init=_init,
    cost=_cost,
    causal=True,
    mask="use",
    state=True,
    uses=(*MIXING, *CHUNKED),
    paper="arXiv:2405.21060",
)
